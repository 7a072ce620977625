"""Notes of the simulated doctor's office: phrases of our own for what is there and what is not.

A symptom is told with the probability of simsum_network.json, never invented, and its character
depends on its cause. Causes themselves, clinician, treatment and outcome are never told.
"""

import dataclasses

import numpy as np

from crl_jax.data.cohort import CohortError

NEGATIONS = ("plain", "varied")


@dataclasses.dataclass(frozen=True)
class Style:
  """How notes are written.

  Attributes:
    mention: times the probability that a symptom, or its absence, is told (at most 1).
    negation: "plain": 'no cough'; "varied": in many words.
    typos: probability that two neighbouring letters of a word change places.
    compact: abbreviations instead of words.
    background: probability that a condition of the patient's is told.
  """
  mention: float = 1.0
  negation: str = "varied"
  typos: float = 0.0
  compact: bool = False
  background: float = 0.7


PRESENT = {
    "dysp": ("short of breath on the stairs", "gets out of breath when walking",
             "breathing feels laboured", "complains of breathlessness", "air hunger at night",
             "dyspnoea since a few days"),
    "cough": ("has been coughing", "a troublesome cough", "cough keeps the family awake",
              "coughs throughout the day", "reports a cough for a week"),
    "pain": ("pain in the chest", "a stabbing feeling below the ribs", "chest hurts",
             "soreness around the breastbone", "thoracic pain reported"),
    "nasal": ("a runny nose", "nose is blocked", "sneezes a lot", "nasal congestion",
              "needs many handkerchiefs"),
    "fever_low": ("temperature of 37.9", "slightly raised temperature", "a mild fever of 38.0",
                  "feels a bit warm, 37.8 measured", "subfebrile"),
    "fever_high": ("temperature of 39.4", "high fever since yesterday", "shivering with 39.8",
                   "burning up, 39.6 at home", "febrile at 40.1")}
ABSENT = {
    "dysp": ("breathes comfortably", "not out of breath", "denies breathlessness",
             "no trouble with breathing", "air entry without effort"),
    "cough": ("does not cough", "denies coughing", "cough is absent", "without any cough",
              "not a single cough heard"),
    "pain": ("chest does not hurt", "denies pain in the chest", "free of chest pain",
             "thorax painless", "nothing hurts in the chest"),
    "nasal": ("nose is clear", "denies a runny nose", "breathes freely through the nose",
              "nasal passages dry and open", "no sneezing"),
    "fever": ("temperature of 36.6", "afebrile", "denies any fever", "no raised temperature",
              "temperature normal at 36.8")}
PLAIN = {"dysp": "no shortness of breath", "cough": "no cough", "pain": "no chest pain",
         "nasal": "no nasal complaints", "fever": "no fever"}
# symptom -> cause -> how it then is; the disease of the lung is "pneu", that of the airways "inf"
CHARACTER = {
    "dysp": {
        "asthma": ("with wheezing", "in attacks", "tightness after sports", "worse with cold air"),
        "smoking": ("building up over years", "mostly on exertion", "with a morning rattle",
                    "gradually worse"),
        "COPD": ("with prolonged exhaling", "even at rest on bad days", "pursing the lips",
                 "barrel shaped effort"),
        "hay_fever": ("when pollen is around", "outside in the garden", "together with itchy eyes",
                      "in bursts outdoors"),
        "pneu": ("quickly worse over two days", "fast and shallow", "with a pale look",
                 "even when speaking")},
    "cough": {
        "asthma": ("dry and tickling", "worst after midnight", "after running", "with a whistle"),
        "smoking": ("the usual rasping one", "in the mornings", "with dark phlegm", "for years"),
        "COPD": ("with grey sputum", "deep and chronic", "every winter again", "slow to clear"),
        "pneu": ("with rusty sputum", "wet and heavy", "bringing up thick green phlegm",
                 "rattling low in the chest", "with a streak of blood"),
        "inf": ("after a sore throat", "with clear mucus", "barking", "irritating and dry",
                "started with a cold")},
    "pain": {
        "pneu": ("sharp when inhaling", "on one side only", "catching with each deep breath",
                 "piercing towards the back"),
        "COPD": ("tense muscles between the ribs", "dull after a bad night", "from all the effort",
                 "a band around the chest"),
        "inf": ("raw behind the breastbone", "burning when swallowing", "mild and diffuse",
                "with aching limbs"),
        "cough": ("from coughing so much", "sore muscles from coughing", "with each coughing fit",
                  "strained ribs"),
        "asthma": ("pressure during attacks", "tight as a belt", "after wheezing",
                   "eased by the inhaler")}}
BACKGROUND = {
    "asthma": ("known asthma", "asthmatic since childhood", "has an inhaler for asthma",
               "asthma in the records"),
    "smoking": ("smokes", "a pack each day", "smoker for years", "has not quit cigarettes"),
    "COPD": ("known copd", "copd under control", "copd, sees a lung clinic", "copd on record"),
    "hay_fever": ("hay fever each spring", "allergic to pollen", "known hay fever",
                  "antihistamines in season")}
# (history, examination, plan): what is told of anyone
DISTRACTORS = (
    ("lives with a partner", "works in an office", "has two children", "came by bicycle",
     "appetite is fair", "sleeps seven hours", "drinks tea mostly", "recently moved house",
     "walks the dog twice a day", "no travel this year", "worried about a deadline",
     "mother was here last week", "takes a multivitamin", "wears glasses", "plays in a band",
     "back from a long weekend", "has a new job", "stomach is fine", "bowels regular",
     "wants a note for the gym", "prefers mornings", "mood is steady"),
    ("pulse regular", "skin warm and dry", "abdomen soft", "ears normal", "blood pressure 124",
     "blood pressure 131", "no swollen ankles", "pupils equal", "gait steady", "neck supple",
     "weight 71", "weight 83", "well nourished", "reflexes brisk", "heart sounds normal",
     "no rash seen", "throat slightly red", "tongue moist", "back straight", "hands warm",
     "oriented and alert", "well groomed"),
    ("rest advised", "drink enough", "come back next week if needed", "call when worse",
     "leaflet handed out", "follow up by phone", "questions answered", "bloods not needed now",
     "keep the windows open", "avoid heavy work", "light meals", "plan explained",
     "partner informed", "next visit open", "weigh once a week", "keep a diary",
     "steam if it helps", "paracetamol if sore", "off work for a day", "no referral today",
     "records updated", "agreed on the plan"))
SHORT = {"temperature": "temp", "patient": "pt", "with": "w", "without": "wo", "breath": "br",
         "history": "hx", "reports": "r", "complains of": "co", "denies": "neg for",
         "blood pressure": "bp", "out of": "oo", "since": "s"}
HEADS = ("History", "Physical Examination", "Plan")


def write(columns, facts, seed, style):
  """The notes, a list of N texts.

  Args:
    columns: name -> (N,) of the network's variables.
    facts: the "text" of simsum_network.json.
    seed: int; the stream is the notes' own.
    style: Style.
  Raises:
    CohortError: a style that cannot be.
  """
  if style.negation not in NEGATIONS or style.mention < 0 or not (
      0 <= style.typos <= 1 and 0 <= style.background <= 1):
    raise CohortError(f"{style}: negation may be {' or '.join(NEGATIONS)}, mention 0 or more, "
                      "typos and background shares.")
  rng = np.random.default_rng([8, seed])
  rows = [dict(zip(columns, values)) for values in zip(*(x.tolist() for x in columns.values()))]
  return [_note(row, facts, rng, style) for row in rows]


def _note(row, facts, rng, style):
  pick = lambda bank: bank[int(rng.random() * len(bank))]
  told = [_symptom(name, row, facts, rng, style, pick)
          for name in ("dysp", "cough", "pain", "nasal", "fever")]
  history = [line for name, line in zip(("dysp", "cough", "pain", "nasal"), told) if line]
  history += [pick(bank) for name, bank in BACKGROUND.items()
              if row[name] and rng.random() < style.background]
  parts = [history, [told[4]] if told[4] else [], []]
  lines = []
  for head, part, bank in zip(HEADS, parts, DISTRACTORS):
    part = part + [pick(bank), pick(bank)]
    rng.shuffle(part)
    lines.append(f"{head}: " + ". ".join(part) + ".")
  text = "\n".join(lines)
  if style.compact:
    for word, short in SHORT.items():
      text = text.replace(word, short)
  return _with_typos(text, rng, style.typos) if style.typos else text


def _symptom(name, row, facts, rng, style, pick):
  """What is told of a symptom, or ''."""
  there = bool(row[name])
  key = name if name != "fever" else ("fever", "fever_low", "fever_high")[row[name]]
  p = facts["p_mention_if_present" if there else "p_mention_if_absent"][key]
  if rng.random() >= p * style.mention:
    return ""
  if not there:
    return pick(ABSENT[name]) if style.negation == "varied" else PLAIN[name]
  character = _character(name, row, facts, rng, pick)
  return pick(PRESENT[key]) + f", {character}" * bool(character)


def _character(name, row, facts, rng, pick):
  """How a present symptom is, by its cause: the lung's disease before the airways' before the
  others, which are drawn by how many words the original has for each."""
  causes = [c for c in facts["descriptor_causes"].get(name, ()) if row[c]]
  if not causes:
    return ""
  first = next((c for c in ("pneu", "inf") if c in causes), None)
  if first is None:
    share = np.cumsum([facts["n_descriptors"][name][c] for c in causes])
    first = causes[int(np.searchsorted(share, rng.random() * share[-1], side="right"))]
  return pick(CHARACTER[name][first])


def _with_typos(text, rng, p):
  words = text.split(" ")
  for i, word in enumerate(words):
    if len(word) > 3 and rng.random() < p:
      j = 1 + int(rng.random() * (len(word) - 3))
      words[i] = word[:j] + word[j + 1] + word[j] + word[j + 2:]
  return " ".join(words)
