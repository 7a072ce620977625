"""Conditions by ICD code, searched in the diagnoses of earlier admissions.

The groups are Charlson's in the ICD-9-CM and ICD-10 coding of Quan et al., Medical Care 43:1130,
2005 (infarct to AIDS), and a few more that bear on the outcomes. Codes have no dots, as in
diagnoses_icd; a pattern matches at the start of a code.
"""

# name -> (ICD-9 pattern, ICD-10 pattern)
CONDITIONS = {
    "infarct": ("410|412", "I21|I22|I252"),
    "heart_failure": ("39891|402[019]1|404[019][13]|425[4-9]|428",
                      "I099|I110|I13[02]|I255|I42[05-9]|I43|I50|P290"),
    "vascular": ("0930|4373|440|441|443[1-9]|4471|557[19]|V434",
                 "I70|I71|I73[189]|I771|I79[02]|K55[189]|Z95[89]"),
    "stroke": ("36234|43[0-8]", "G45|G46|H340|I6"),
    "dementia": ("290|2941|3312", "F0[0-3]|F051|G30|G311"),
    "lung": ("416[89]|49|50[0-5]|5064|508[18]", "I27[89]|J4[0-7]|J6[0-7]|J684|J70[13]"),
    "rheumatic": ("4465|710[0-4]|714[0128]|725", "M05|M06|M315|M3[2-4]|M35[13]|M360"),
    "ulcer": ("53[1-4]", "K2[5-8]"),
    "liver_mild": ("070[69]|0702[23]|0703[23]|07044|07054|570|571|573[3489]|V427",
                   "B18|K70[0-39]|K71[3-57]|K73|K74|K76[02-489]|Z944"),
    "liver_severe": ("456[0-2]|572[2-8]", "I85[09]|I864|I982|K704|K711|K72[19]|K76[5-7]"),
    "diabetes": ("250[0-389]", "E1[0-4][01689]"),
    "diabetes_complicated": ("250[4-7]", "E1[0-4][2-57]"),
    "paralysis": ("3341|342|343|344[0-69]", "G041|G114|G80[12]|G81|G82|G83[0-49]"),
    "kidney": ("403[019]1|404[019][23]|582|583[0-7]|585|586|5880|V420|V451|V56",
               "I120|I131|N03[2-7]|N05[2-7]|N18|N19|N250|Z49[0-2]|Z940|Z992"),
    "cancer": ("1[4-6]|17[0-24-9]|18|19[0-5]|20[0-8]|2386",
               "C[01]|C2[0-6]|C3[0-47-9]|C4[0135-9]|C5[0-8]|C6|C7[0-6]|C8[1-58]|C9[0-7]"),
    "metastasis": ("19[6-9]", "C7[789]|C80"),
    "aids": ("04[2-4]", "B2[0-24]"),
    "hypertension": ("40[1-5]", "I1[0-35]"),
    "arrhythmia": ("427", "I4[7-9]"),
    "valve": ("394|395|396|397|424", "I0[5-8]|I3[4-9]"),
    "sepsis": ("038|9959[12]|78552", "A40|A41|R652"),
    "respiratory_failure": ("5188", "J96"),
    "pneumonia": ("48[0-6]", "J1[2-8]"),
    "acute_kidney_injury": ("584", "N17"),
    "obesity": ("2780", "E66"),
    "anemia": ("28[0-5]", "D5|D6[0-4]"),
    "coagulopathy": ("286|287[1-5]", "D6[5-9]"),
    "depression": ("296[23]|311", "F3[23]"),
    "alcohol": ("291|303|3050", "F10"),
    "drugs": ("292|304|305[2-9]", "F1[1-689]"),
}
