"""Notes cleaned, split at sentences and packed into windows; nothing of a note is lost or shown."""

import logging
import time

import numpy as np
import pytest

from crl_jax.data.text import notes

NOTE = """Name:  ___                     Unit No:   ___
 
Admission Date:  ___              Discharge Date:   ___
 
Date of Birth:  ___             Sex:   F
 
Service: MEDICINE
 
Allergies: 
No Known Allergies / Adverse Drug Reactions
 
Major Surgical or Invasive Procedure:
___
 
History of Present Illness:
___ HCV cirrhosis c/b ascites, h/o IVDU, COPD, presented
from OSH with worsening   abd distension. Dr. Smith saw her. T of 38.5 vs.
37.2 before. She denies fever!  "ok?" BP 120/80.
==========================
1. Aspirin 81 mg PO DAILY
2. Lisinopril 10 mg PO DAILY

Facility:
___
"""


def test_cleaning_removes_what_deidentification_left_and_keeps_the_rest():
  text = notes.clean(NOTE)
  for gone in ("___", "Name:", "Unit No", "Admission Date", "Procedure", "Facility", "====", "  "):
    assert gone not in text, gone
  for kept in ("Date of Birth: Sex: F", "Service: MEDICINE", "HCV cirrhosis c/b ascites", "81 mg"):
    assert kept in text
  assert notes.clean(text) == text


def test_characters_that_no_tokenizer_takes_are_removed():
  assert notes.clean("a\x00b\x07c\ufeffd\r\ne\rf \ud800 \U0001F600") == "a b c d\ne\nf ? \U0001F600"
  assert notes.clean("[**Name 123**] walks") == "walks"


@pytest.mark.parametrize("text, content", [
    ("", False), (" \n\t", False), ("___", False), ("___ , ___.\n\n ___", False), ("-----", False),
    ("Name: ___", False), ("Facility:\n___\n", False), ("\x00\x01", False), ("\ufffd", False),
    ("ok", True), ("Name: ___ \nSex: F", True), ("___ " * 3000 + "fever", True), ("7", True)])
def test_a_note_of_blanks_is_no_observation(text, content):
  assert notes.has_content(text) == content


def test_sentences_end_at_full_stops_headers_items_and_blank_lines_alone():
  assert notes.sentences(notes.clean(NOTE)) == [
      "Date of Birth: Sex: F", "Service: MEDICINE",
      "Allergies: No Known Allergies / Adverse Drug Reactions",
      "History of Present Illness: HCV cirrhosis c/b ascites, h/o IVDU, COPD, presented from OSH "
      "with worsening abd distension.", "Dr. Smith saw her.", "T of 38.5 vs. 37.2 before.",
      'She denies fever! "ok?" BP 120/80.', "1. Aspirin 81 mg PO DAILY",
      "2. Lisinopril 10 mg PO DAILY"]
  assert notes.sentences("") == []


def test_windows_hold_every_token_in_order_at_sentence_boundaries():
  rng = np.random.default_rng(0)
  for _ in range(200):
    room = int(rng.integers(4, 20))
    overlap = int(rng.integers(0, room // 2 + 1))
    lengths = rng.integers(1, 2 * room if rng.random() < 0.3 else room, rng.integers(1, 12))
    tokens = iter(range(10 ** 6))
    sentences = [[next(tokens) for _ in range(n)] for n in lengths]
    windows = notes.pack(sentences, room, overlap)
    total = sum(lengths)
    assert all(0 < len(w) <= room for w in windows)
    assert sorted({t for w in windows for t in w}) == list(range(total))
    starts = {s[0] for s in sentences if len(s) <= room}
    for before, after in zip(windows, windows[1:]):
      assert after == list(range(after[0], after[-1] + 1)) and after[-1] > before[-1]
      repeated = before[-1] + 1 - after[0]
      assert 0 <= repeated <= overlap
      if all(len(s) <= room for s in sentences):
        assert after[0] in starts


def test_overlap_repeats_the_last_sentences_that_fit():
  sentences = [[1, 2], [3], [4, 5], [6, 7]]
  assert notes.pack(sentences, 5, 0) == [[1, 2, 3, 4, 5], [6, 7]]
  assert notes.pack(sentences, 5, 2) == [[1, 2, 3, 4, 5], [4, 5, 6, 7]]
  assert notes.pack(sentences, 5, 3) == [[1, 2, 3, 4, 5], [3, 4, 5, 6, 7]]
  assert notes.pack([list(range(10))], 4, 1) == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
  assert notes.pack([], 5, 2) == []


def test_long_notes_keep_evenly_spread_windows():
  assert notes.spread(list(range(5)), 5) == [0, 1, 2, 3, 4]
  assert notes.spread(list(range(101)), 5) == [0, 25, 50, 75, 100]
  assert notes.spread([7, 8], 1) == [7]


@pytest.fixture(scope="module")
def tokenizer(tiny_bert):
  return notes.Tokenizer(tiny_bert)


def test_windows_of_notes_have_berts_marks(tokenizer):
  (windows, count), (none, zero) = tokenizer.windows(["the pain. Has no pain", ""], 20, 4, 9)
  first, last = 2, 3   # [CLS], [SEP] in the vocabulary's order
  assert count == len(windows) == 1 and none == [] and zero == 0
  assert windows[0][0] == first and windows[0][-1] == last and first not in windows[0][1:]
  (many, count), = tokenizer.windows(["has pain. " * 50], 20, 4, 3)
  assert len(many) == 3 < count and max(map(len, many)) <= 20


def test_marks_written_in_a_note_are_text(tokenizer):
  (windows, _), = tokenizer.windows(["a [SEP] b [PAD] c [CLS]"], 40, 0, 9)
  assert [t for t in windows[0][1:-1] if t < 5 and t != 1] == []


@pytest.mark.parametrize("text", [
    "has pain. " * 100_000, "x" * 1_000_000, "___ " * 250_000, "A:" * 100_000, "\n" * 1_000_000,
    "Name: " * 160_000, "_" * 1_000_000, "=" * 1_000_000, "A: \n" * 250_000, "\U0001F600" * 50_000,
    ". A" * 330_000, "[**" * 330_000])
def test_a_megabyte_of_anything_takes_seconds(tokenizer, text):
  begin = time.process_time()
  cleaned = notes.clean(text)
  notes.has_content(text)
  (windows, _), = tokenizer.windows([cleaned], 40, 8, 4)
  assert len(windows) <= 4 and time.process_time() - begin < 10


def test_a_cased_vocabulary_that_would_be_lower_cased_is_told(make_bert, tmp_path, caplog):
  folder = make_bert(tmp_path)
  words = (folder / "vocab.txt").read_text().split("\n")
  (folder / "vocab.txt").write_text("\n".join(w if w.startswith("[") else w.upper() for w in words))
  with caplog.at_level(logging.WARNING):
    notes.Tokenizer(folder)
  assert "do_lower_case" in caplog.text
  caplog.clear()
  (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
  notes.Tokenizer(folder)
  assert not caplog.text


def test_a_damaged_tokenizer_is_refused_by_its_folder(make_bert, tmp_path):
  folder = make_bert(tmp_path)
  (folder / "tokenizer.json").write_text("{]")
  with pytest.raises(ValueError, match="tokenizer cannot be read") as error:
    notes.Tokenizer(folder)
  assert str(folder) in str(error.value)
