"""The recipe of the embedded teachers: words, drawings, pseudo features, the contrast, the files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clipstill.core.errors import DataError
from clipstill.core.files import write_json
from clipstill.core.lite_network import IMAGENET_CLASSES
from clipstill.core.seeds import generator_for
from clipstill.report.licences import Family, family_of
from clipstill.teachers.embedded import Alignment, Words, read_weights
from clipstill.teachers.minilm import DIM
from tools.weights.alignment import (
    AlignmentSettings,
    Choices,
    TrainingTexts,
    contrastive_loss,
    equalised,
    pseudo_features,
    train_alignment,
)
from tools.weights.drawings import BACKGROUND_HEIGHT, BACKGROUND_WIDTH, Drawings, blur
from tools.weights.embedded_teacher import training_texts, write_alignment
from tools.weights.packages import AUTHORS, TRAINING, training_facts
from tools.weights.pictures import Picture, icon_pictures
from tools.weights.tower_features import FEATURES, Classifier, clipped_normal_mean
from tools.weights.wordnet import physical_things
from tools.weights.words import (
    CLOTHING,
    PERSON,
    Noun,
    TextVectors,
    nouns_above,
    parse_synset,
    read_synsets,
    with_dressed_people,
    words_tensors,
)

# The form of WordNet 3.0's data.noun, made by hand: entity > animal > (dog > puppy, cat); Rex is an instance of dog.
NOUN_FILE = """\
  1 This is the licence, in lines that start with two spaces.
00000001 03 n 01 entity 0 001 ~ 00000002 n 0000 | all there is
00000002 03 n 02 animal 0 living_creature 0 002 @ 00000001 n 0000 ~ 00000003 n 0000 | it moves | it eats
00000003 05 n 02 Canis_familiaris 0 dog 1 003 @ 00000002 n 0000 ~ 00000004 n 0000 + 00999999 v 0101 | it barks
00000004 05 n 01 puppy 0 001 @ 00000003 n 0000 | young
00000005 05 n 01 cat 0 001 @ 00000002 n 0000 | it purrs
00000006 18 n 01 Rex 0 001 @i 00000003 n 0000 | a dog
"""


@pytest.fixture
def noun_file(tmp_path: Path) -> Path:
    path = tmp_path / "data.noun"
    path.write_text(NOUN_FILE, encoding="utf-8")
    return path


def test_a_synset_has_its_words_and_what_it_is_a_kind_or_an_instance_of(noun_file: Path) -> None:
    synsets = read_synsets(noun_file)
    assert list(synsets) == [f"0000000{i}" for i in range(1, 7)]
    assert synsets["00000003"].lemmas == ("canis familiaris", "dog")
    assert synsets["00000003"].hypernyms == ("00000002",)
    assert synsets["00000006"].hypernyms == ("00000003",)
    assert synsets["00000001"].hypernyms == ()


def test_the_number_of_words_is_hexadecimal() -> None:
    words = " ".join(f"word_{i} 0" for i in range(10))
    synset = parse_synset(f"00000009 03 n 0a {words} 001 @ 00000001 n 0000 | gloss")
    assert synset is not None
    assert synset.lemmas[-1] == "word 9"
    assert synset.hypernyms == ("00000001",)


def test_a_line_of_another_form_is_named() -> None:
    with pytest.raises(DataError, match="not a line of WordNet's noun file: 'hello'"):
        parse_synset("hello")


def test_a_noun_has_the_classes_at_and_below_it(noun_file: Path) -> None:
    nouns = nouns_above(read_synsets(noun_file), ["00000004", "00000005", "00000003"])
    assert {noun.offset: noun.members for noun in nouns} == {
        "00000001": (0, 1, 2),
        "00000002": (0, 1, 2),
        "00000003": (0, 2),
        "00000004": (0,),
        "00000005": (1,),
    }


def test_a_person_has_the_classes_of_clothes_too() -> None:
    nouns = [Noun(PERSON, ("person",), (5, 7)), Noun(CLOTHING, ("clothing",), (2, 7)), Noun("1", ("cat",), (1,))]
    assert [noun.members for noun in with_dressed_people(nouns)] == [(2, 5, 7), (2, 7), (1,)]


def _drawings(seed: int = 0, lines: float = 0.3) -> Drawings:
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (40, 24, 24, 4), dtype=np.uint8)
    photos = torch.from_numpy(rng.integers(0, 256, (2, 3, BACKGROUND_HEIGHT, BACKGROUND_WIDTH), dtype=np.uint8))
    return Drawings(rgba, photos, 32, lines, seed)


def test_drawings_are_shown_once_each_and_in_range() -> None:
    batches = list(_drawings().batches(batch=16))
    assert sorted(np.concatenate([indices for indices, _ in batches])) == list(range(40))
    for indices, x_N3HW in batches:
        assert x_N3HW.shape == (len(indices), 3, 32, 32)
        assert float(x_N3HW.min()) >= 0
        assert float(x_N3HW.max()) <= 1


def test_line_drawings_are_grey() -> None:
    coloured = [torch.cat([x for _, x in _drawings(lines=lines).batches()]).std(1).mean() for lines in (0.0, 1.0)]
    assert float(coloured[1]) < 0.2 * float(coloured[0])  # some grain has colours


def test_drawings_are_the_same_for_the_same_seed_only() -> None:
    first, again, other = (torch.cat([x for _, x in _drawings(seed).batches()]) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_drawings_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    next(_drawings().batches())
    assert torch.equal(torch.get_rng_state(), before)


def test_blur_keeps_the_mean_of_a_plain_image_and_spreads_a_point() -> None:
    assert torch.allclose(blur(torch.full((1, 3, 16, 16), 0.3), 1.2), torch.tensor(0.3))
    point = torch.zeros(1, 1, 17, 17)
    point[..., 8, 8] = 1
    spread = blur(point, 1.0)
    # The kernel reaches two standard deviations: normal densities at 0, 1, 2, made to sum to 1.
    weights = np.exp(-(np.arange(-2, 3) ** 2) / 2)
    weights /= weights.sum()
    assert np.allclose(spread[0, 0, 6:11, 6:11], np.outer(weights, weights), atol=1e-6)


def _classifier(generator: torch.Generator, features: int = 24, classes: int = 7) -> Classifier:
    return Classifier(torch.randn(classes, features, generator=generator), torch.randn(classes, generator=generator))


def test_pseudo_features_move_to_their_class() -> None:
    generator = torch.Generator().manual_seed(3)
    feat_NF = torch.rand(300, 24, generator=generator) * 2
    classifier = _classifier(generator)
    moved_MF, classes_M = pseudo_features(feat_NF, classifier, 500, margin=4.0, generator=generator)
    assert (classifier(moved_MF).argmax(1) == classes_M).float().mean() > 0.95
    assert float(moved_MF.min()) >= 0
    assert len(classes_M.unique()) == 7
    starts = (classifier(feat_NF).argmax(1)[:, None] == torch.arange(7)).float().mean(0).max()
    assert starts < 0.95  # or the claim above would be empty


def test_real_features_are_not_changed_by_making_pseudo_features() -> None:
    generator = torch.Generator().manual_seed(3)
    feat_NF = torch.rand(50, 24, generator=generator)
    before = feat_NF.clone()
    pseudo_features(feat_NF, _classifier(generator), 60, margin=4.0, generator=generator)
    assert torch.equal(feat_NF, before)


def test_the_contrast_of_equal_logits_is_log_n() -> None:
    assert contrastive_loss(torch.full((8, 8), 3.0), torch.arange(8)).item() == pytest.approx(math.log(8))


def test_the_contrast_of_two_pairs_has_its_closed_form() -> None:
    a, b = 2.0, 0.5
    logits = torch.tensor([[a, b], [b, a]])
    assert contrastive_loss(logits, torch.tensor([0, 1])).item() == pytest.approx(math.log(1 + math.exp(b - a)))


def test_equal_meanings_share_the_target_of_the_contrast() -> None:
    a, b, c = 1.0, 0.2, -0.7
    logits = torch.tensor([[a, b, c], [a, b, c], [a, b, c]])
    ids = torch.tensor([4, 4, 9])
    total = math.log(math.exp(a) + math.exp(b) + math.exp(c))
    by_image = (2 * (total - (a + b) / 2) + (total - c)) / 3
    by_text = math.log(3)
    assert contrastive_loss(logits, ids).item() == pytest.approx((by_image + by_text) / 2)


def test_choices_come_from_their_own_row() -> None:
    choices = Choices([[1, 2, 3], [], [7], [8, 9]])
    drawn = choices.draw(torch.tensor([0, 2, 3]).repeat(200), torch.Generator().manual_seed(0)).view(200, 3)
    assert set(drawn[:, 0].tolist()) == {1, 2, 3}
    assert set(drawn[:, 1].tolist()) == {7}
    assert set(drawn[:, 2].tolist()) == {8, 9}
    # A row without numbers at the very end must not read past the list.
    assert Choices([[5], []]).draw(torch.tensor([1]), torch.Generator().manual_seed(0)).shape == (1,)


def _cached_vectors(cache: Path, texts: list[str]) -> TextVectors:
    """Text vectors that are all in the cache, so that no text tower is needed."""
    generator = torch.Generator().manual_seed(1)
    vectors = torch.nn.functional.normalize(torch.randn(len(texts), DIM, generator=generator), dim=-1)
    save_file({"texts": vectors}, cache / "texts.safetensors")
    write_json(cache / "texts.json", texts)
    return TextVectors(texts, cache)


def test_cached_text_vectors_are_found_whatever_the_case(tmp_path: Path) -> None:
    vectors = _cached_vectors(tmp_path, ["dog", "cat"])
    again = TextVectors(["Cat", "dog"], tmp_path)
    assert torch.equal(again.of(["CAT"]), vectors.vectors_ME[1:])


def _words(folder: Path) -> tuple[Words, list[Noun], list[Noun], TextVectors]:
    classes = [Noun(f"{i:08}", (f"thing {i}",), (i,)) for i in range(IMAGENET_CLASSES)]
    animal = Noun("90000001", ("animal", "beast"), tuple(range(20)))
    everything = Noun("90000002", ("entity",), tuple(range(IMAGENET_CLASSES)))
    person = Noun(PERSON, ("person",), (20, 21))
    nouns = [*classes, animal, everything, person]
    texts = [lemma for noun in nouns for lemma in noun.lemmas] + ["man", "woman", "a red fox", "fox"]
    vectors = _cached_vectors(folder, texts)
    save_file(words_tensors(nouns, classes, vectors), folder / "words.safetensors")
    return Words(folder / "words.safetensors"), nouns, classes, vectors


def test_stored_words_are_unit_vectors_and_shares_of_classes(tmp_path: Path) -> None:
    words, nouns, _, vectors = _words(tmp_path)
    assert words.noun_vectors_WE.shape == (1004, DIM)  # one row a lemma
    assert torch.allclose(words.noun_vectors_WE.norm(dim=-1), torch.tensor(1.0), atol=1e-3)
    assert torch.allclose(words.members_WK.sum(1), torch.tensor(1.0))
    beast = [lemma for noun in nouns for lemma in noun.lemmas].index("beast")
    assert words.members_WK[beast].nonzero().flatten().tolist() == list(range(20))
    assert torch.allclose(words.centre(vectors.of(["beast"]))[0], words.noun_vectors_WE[beast], atol=2e-3)


def test_training_texts_leave_out_nouns_that_tell_nothing(tmp_path: Path) -> None:
    _, nouns, classes, vectors = _words(tmp_path)
    pictures = [Picture(Path("fox.png"), "Fox", "A red fox", "icons")]
    texts = training_texts(pictures, nouns, classes, vectors, widest=80)
    assert vectors.texts[int(texts.name_N[0])] == "fox"
    assert vectors.texts[int(texts.caption_N[0])] == "a red fox"
    told = texts.class_above.draw(torch.tensor([3]).repeat(50), torch.Generator().manual_seed(0))
    assert {vectors.texts[i] for i in told.tolist()} == {"animal"}
    people = texts.class_above.draw(torch.tensor([20]).repeat(50), torch.Generator().manual_seed(0))
    assert {vectors.texts[i] for i in people.tolist()} == {"person", "man", "woman"}
    assert texts.class_above.lengths[500] == 0  # a class below nothing but "entity"


def train_tiny(words: Words, classifier: Classifier, feat_NF: torch.Tensor, texts: TrainingTexts) -> Alignment:
    settings = AlignmentSettings(steps=6, batch=16, dim=8, hidden=8, pseudo=30, warmup=2)
    return train_alignment(
        words, classifier, feat_NF, texts, natural_mean_F=feat_NF.mean(0), settings=settings, title="tiny"
    )


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Words, Classifier, torch.Tensor, TrainingTexts, Alignment]:
    words, nouns, classes, vectors = _words(tmp_path)
    pictures = [
        Picture(Path("fox.png"), "Fox", "A red fox", "icons"),
        Picture(Path("b.png"), "beast", "beast", "icons"),
    ]
    texts = training_texts(pictures, nouns, classes, vectors, widest=80)
    generator = torch.Generator().manual_seed(2)
    classifier = _classifier(generator, FEATURES, IMAGENET_CLASSES)
    feat_NF = torch.rand(24, FEATURES, generator=generator)
    alignment = train_tiny(words, classifier, feat_NF, texts)
    return words, classifier, feat_NF, texts, alignment


def test_equalised_features_lie_between_themselves_and_the_predicted_level() -> None:
    generator = torch.Generator().manual_seed(0)
    feat_NF = torch.rand(4000, 6, generator=generator) * torch.tensor([0.2, 0.5, 1.0, 1.0, 2.0, 40.0])
    level_F = torch.full((6,), 0.4)
    gain_F = (level_F / feat_NF.mean(0)).clamp(0.2, 5)
    moved_NF = equalised(feat_NF, level_F, generator)
    # Half the way on average, and every channel of an image the same way.
    torch.testing.assert_close(moved_NF.mean(0), feat_NF.mean(0) * (1 + gain_F) / 2, rtol=0.05, atol=0)
    way_NF = (moved_NF / feat_NF - 1) / (gain_F - 1)
    torch.testing.assert_close(way_NF[:, :1].expand(-1, 6), way_NF, rtol=1e-2, atol=1e-2)
    assert float(way_NF.min()) > -1e-2
    assert float(way_NF.max()) < 1 + 1e-2
    assert torch.equal(equalised(feat_NF, feat_NF.mean(0), generator), feat_NF)


def test_training_ends_the_same_every_time_and_leaves_the_global_generator_alone(
    trained: tuple[Words, Classifier, torch.Tensor, TrainingTexts, Alignment],
) -> None:
    words, classifier, feat_NF, texts, first = trained
    before = torch.get_rng_state()
    again = train_tiny(words, classifier, feat_NF, texts)
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_an_alignment_read_back_gives_the_same_cosines(
    trained: tuple[Words, Classifier, torch.Tensor, TrainingTexts, Alignment], tmp_path: Path
) -> None:
    words, classifier, feat_NF, texts, alignment = trained
    path = tmp_path / "embedded-tiny.safetensors"
    write_alignment(alignment, path, "lite0", 160)
    weights, facts = read_weights(path)
    assert facts == {"tower": "lite0", "image_size": "160", **training_facts(TRAINING)}
    again = Alignment(words, classifier.weight_KF, len(weights["from_text.weight"]), len(weights["hidden.weight"]))
    again.load_state_dict(weights)
    again.eval()
    with torch.no_grad():
        texts = texts.text_ME[:5]
        one, other = (a.encode_image(feat_NF, classifier(feat_NF)) @ a.encode_text(texts).T for a in (alignment, again))
    assert torch.allclose(one, other, atol=2e-3)  # float16
    assert float(again.logit_scale) == pytest.approx(float(alignment.logit_scale), rel=1e-3)


def test_the_recorded_licence_names_every_source_and_reads_as_permissive_with_attribution() -> None:
    facts = training_facts(TRAINING)
    assert {package.licence for package in TRAINING} <= set(facts["licence"].split(" AND "))
    assert family_of(facts["licence"]) is Family.PERMISSIVE
    # CC-BY asks for the names of the authors.
    assert {package.name for package in TRAINING if package.licence.startswith("CC-BY")} == set(AUTHORS)
    assert all(authors in facts["authors"] for authors in AUTHORS.values())


def test_icons_are_taken_by_names_of_emoji_and_of_things() -> None:
    bodies = {name: {"body": f'<path d="{name}"/>'} for name in ("dog-face", "cat-2", "friday", "arrow-up")}
    icons = {"icons": bodies, "width": 24, "height": 32}
    dog, cat = icon_pictures(icons, "a set", {"dogface": ("dog", "dog face, dog")}, {"cat", "dog"})
    assert (dog.name, dog.caption, cat.name, cat.caption) == ("dog", "dog face, dog", "cat", "cat")
    assert isinstance(dog.content, str)
    assert 'viewBox="0 0 24 32"' in dog.content
    assert '<path d="dog-face"/>' in dog.content


def test_things_are_nouns_that_are_physical_in_their_first_sense(tmp_path: Path) -> None:
    package = tmp_path / "wordnet-base"
    folder = package / "usr" / "share" / "wordnet"
    folder.mkdir(parents=True)
    (package / ".complete").touch()
    nouns = NOUN_FILE.replace("00000002", "00001930") + "00000007 03 n 01 friday 0 001 @ 00000001 n 0000 | a day\n"
    (folder / "data.noun").write_text(nouns, encoding="utf-8")
    index = "  1 licence\ncat n 2 1 @ 2 0 00000005 00000007\nfriday n 2 1 @ 2 0 00000007 00000005\n"
    (folder / "index.noun").write_text(index, encoding="utf-8")
    assert physical_things(tmp_path) == {"cat"}


def test_the_mean_of_a_clipped_normal_variable_agrees_with_monte_carlo() -> None:
    mean_F = torch.tensor([-2.0, 0.0, 0.7, 5.0, 9.0, 1.5])
    std_F = torch.tensor([1.0, 0.5, 2.0, 3.0, 1.0, 0.0])
    drawn = torch.randn(200_000, 6, generator=generator_for("monte carlo")) * std_F + mean_F
    expected = drawn.clamp(0, 6).mean(0)
    torch.testing.assert_close(clipped_normal_mean(mean_F, std_F, 6.0), expected, rtol=0.01, atol=0.01)
