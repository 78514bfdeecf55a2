"""Names of what a task's classes are easily taken for, and are not: what "none of these" is learned from.

Shapes: C classes, W words, D teacher dimensions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

# What a photo shows and people have one plain word for, by what it is a kind of. Our choice: wide, and as few kinds of
# one another as can be.
NOUNS = {
    (
        "animal",
        "mammal",
    ): "bat, bear, beaver, camel, cat, cow, deer, donkey, fox, goat, hamster, hedgehog, lion, monkey,"
    " mouse, panda, pig, rabbit, rat, seal, sheep, squirrel, tiger, whale, wolf, zebra",
    ("animal", "bird"): "crane, crow, duck, eagle, goose, hen, owl, parrot, peacock, penguin, pigeon, swan",
    ("animal", "reptile"): "frog, lizard, snake, turtle",
    ("animal", "insect"): "ant, bee, beetle, butterfly, caterpillar, grasshopper, mosquito, moth, scorpion, spider",
    ("animal", "fish"): "crab, fish, jellyfish, lobster, octopus, shark, shell, snail, starfish, worm",
    ("vehicle", "transport"): "airplane, ambulance, bicycle, boat, bus, car, motorcycle, rocket, scooter, ship,"
    " skateboard, tank, tractor, train, truck, van, wheelchair",
    ("food", "fruit", "vegetable"): "apple, banana, bread, cake, carrot, cheese, cherry, corn, egg, grapes, ice cream,"
    " lemon, onion, orange, pear, pineapple, pizza, potato, pumpkin, sandwich, strawberry, tomato, watermelon",
    ("plant",): "cactus, flower, garden, grass, leaf, mushroom, palm tree, tree",
    ("building", "structure"): "barn, bridge, castle, chimney, church, fence, fountain, gate, lighthouse, roof,"
    " skyscraper, stairs, tent, tower, windmill",
    ("landscape", "nature"): "beach, cloud, island, lake, moon, mountain, river, stone, sun",
    ("furniture",): "bed, bench, cabinet, carpet, chair, couch, curtain, desk, mirror, pillow, shelf, table",
    ("clothing",): "boot, coat, dress, glove, hat, helmet, jacket, jeans, mask, scarf, shirt, shoe, skirt, sock, tie",
    ("tool",): "axe, broom, brush, comb, drill, hammer, iron, ladder, magnet, nail, needle, rope, ruler, saw, screw,"
    " shovel, toothbrush",
    ("weapon",): "gun, knife, sword",
    ("container", "dishes"): "backpack, basket, bottle, bowl, box, bucket, cup, envelope, fork, jar, kettle, mug, pan,"
    " plate, spoon, suitcase, teapot, tray, vase, wallet",
    ("musical instrument",): "bell, drum, flute, harp, piano, trumpet, violin, whistle",
    ("machine", "electronics"): "calculator, camera, clock, computer, fan, flashlight, keyboard, lamp, oven, printer,"
    " radio, robot, stove, telephone, television, toaster, typewriter, washing machine, watch",
    ("object", "thing"): "aquarium, ball, balloon, bathtub, billboard, binoculars, book, candle, chain, door, face,"
    " feather, flag, glasses, globe, hand, key, kite, knot, lighter, lock, map, nest, newspaper, parachute, pen,"
    " pencil, pipe, ring, sink, skeleton, snowman, toilet, toy, traffic light, umbrella, wheel, window",
}
WORDS = tuple(word.strip() for words in NOUNS.values() for word in words.split(","))
KINDS = tuple(dict.fromkeys(kind for kinds in NOUNS for kind in kinds))
_KINDS_OF = [kinds for kinds, words in NOUNS.items() for _ in words.split(",")]

# Nearer than this share of the way from an unrelated word to the class itself, a word may be another name of the class,
# a kind of it or what it is a kind of; in embedded-m, wolf lies at 0.3 of dog and puppy above a half.
NEAREST = 0.35
# A class this near to the name of a kind is that kind, and everything of it is left out: a deer is no near miss of an
# animal.
SAME_KIND = 0.7


def choose_near_misses(
    names: Sequence[str],
    class_vectors_CD: Tensor,
    word_vectors_WD: Tensor,
    kind_vectors_KD: Tensor,
    count: int,
    near_to: Sequence[int] | None = None,
    without: Sequence[str] = (),
) -> list[str]:
    """Choose words that lie near the classes, and far enough to mean something else.

    The classes take turns, so that any stretch of the choice is spread over them.

    Args:
        names: of the classes.
        class_vectors_CD: of the texts of the classes.
        word_vectors_WD: unit vectors of ``WORDS``, made as those of the classes are.
        kind_vectors_KD: the same of ``KINDS``.
        count: how many; fewer come back where fewer words are far enough.
        near_to: positions of the classes that take turns; None for all. Words are far enough from every class.
        without: words that are not wanted.
    """
    share_CW, free = _shares(names, class_vectors_CD, word_vectors_WD, kind_vectors_KD)
    free = [each and word not in without for each, word in zip(free, WORDS, strict=True)]
    chosen: list[str] = []
    turns_CW = share_CW if near_to is None else share_CW[list(near_to)]
    nearest = [iter(order) for order in turns_CW.argsort(dim=1, descending=True, stable=True).tolist()]
    wanted = min(count, sum(free))
    while len(chosen) < wanted:
        for order in nearest:
            word = next((WORDS[place] for place in order if free[place] and WORDS[place] not in chosen), None)
            if word is not None and len(chosen) < wanted:
                chosen.append(word)
    return chosen


def far_enough(
    names: Sequence[str], class_vectors_CD: Tensor, word_vectors_WD: Tensor, kind_vectors_KD: Tensor
) -> set[str]:
    """All words that mean something else than the classes; arguments are those of ``choose_near_misses``."""
    _, free = _shares(names, class_vectors_CD, word_vectors_WD, kind_vectors_KD)
    return {word for each, word in zip(free, WORDS, strict=True) if each}


def _shares(
    names: Sequence[str], class_vectors_CD: Tensor, word_vectors_WD: Tensor, kind_vectors_KD: Tensor
) -> tuple[Tensor, list[bool]]:
    """How near each word lies to each class, as a share (C, W), and which words are far enough from all of them."""
    words_WD, classes_CD = word_vectors_WD.float(), torch.nn.functional.normalize(class_vectors_CD.float(), dim=1)
    between_WW = words_WD @ words_WD.T
    unrelated = float((between_WW.sum() - between_WW.trace()) / (len(WORDS) * (len(WORDS) - 1)))
    share_CW = (classes_CD @ words_WD.T - unrelated) / (1 - unrelated)
    share_CK = (classes_CD @ kind_vectors_KD.float().T - unrelated) / (1 - unrelated)
    asked = {kind for kind, share in zip(KINDS, share_CK.amax(0).tolist(), strict=True) if share >= SAME_KIND}
    taken = {token for name in names for token in _tokens(name)}
    free = [
        share <= NEAREST and not _tokens(word) & taken and not asked & set(kinds)
        for word, share, kinds in zip(WORDS, share_CW.amax(0).tolist(), _KINDS_OF, strict=True)
    ]
    return share_CW, free


def _tokens(name: str) -> set[str]:
    """Words of a name, without the plural's s."""
    return {word.removesuffix("s") for word in re.findall(r"[a-z]+", name.lower())}
