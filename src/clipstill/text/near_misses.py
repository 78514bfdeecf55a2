"""Words for things that are easily mistaken for the classes; the answer "none of these" is learned from their images.

Shapes: C classes, W words, D teacher dimensions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from clipstill.text.linter import Known

# Plain words for things that photos show, by their kinds. Our choice.
NOUNS = {
    ("animal", "mammal"): "bat, bear, beaver, camel, cat, cow, deer, donkey, fox, goat, hamster, hedgehog, lion,"
    " monkey, mouse, panda, pig, rabbit, rat, seal, sheep, squirrel, tiger, whale, wolf, zebra",
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

# Shares as in ``linter``: 0 for unrelated words, 1 for the class itself. A word with a larger share may be another name
# of the class or a kind of it; in embedded-m, wolf has 0.3 of dog and puppy more than 0.5.
NEAREST = 0.35
# From this share on, a class is a kind of things itself, and all words of that kind are left out.
_SAME_KIND = 0.7


def word_shares(
    names: Sequence[str], class_vectors_CD: Tensor, word_vectors_WD: Tensor, kind_vectors_KD: Tensor
) -> tuple[Tensor, set[str]]:
    """How near each word lies to each class, as a share (C, W), and the words that mean something else than all.

    Args:
        names: Names of the classes.
        class_vectors_CD: Text vectors of the classes.
        word_vectors_WD: Unit vectors of ``WORDS``, made like those of the classes.
        kind_vectors_KD: Unit vectors of ``KINDS``, made like those of the classes.
    """
    known = Known(WORDS, word_vectors_WD.float())
    classes_CD = torch.nn.functional.normalize(class_vectors_CD.float(), dim=1)
    share_CW = known.share(classes_CD @ known.vectors_WD.T)
    share_CK = known.share(classes_CD @ kind_vectors_KD.float().T)
    class_kinds = {kind for kind, share in zip(KINDS, share_CK.amax(0).tolist(), strict=True) if share >= _SAME_KIND}
    class_tokens = {token for name in names for token in _tokens(name)}
    free = {
        word
        for word, share, kinds in zip(WORDS, share_CW.amax(0).tolist(), _KINDS_OF, strict=True)
        if share <= NEAREST and not _tokens(word) & class_tokens and not class_kinds & set(kinds)
    }
    return share_CW, free


def choose_near_misses(share_CW: Tensor, free: set[str], count: int) -> list[str]:
    """Choose at most ``count`` of the ``free`` words, near to the classes, which take turns."""
    chosen: list[str] = []
    left = set(free)
    orders = share_CW.argsort(dim=1, descending=True, stable=True).tolist()
    while len(chosen) < count and left:
        for order in orders[: count - len(chosen)]:
            word = next((WORDS[place] for place in order if WORDS[place] in left), None)
            if word is not None:
                chosen.append(word)
                left.remove(word)
    return chosen


def _tokens(name: str) -> set[str]:
    """Words of a name, without the plural's s."""
    return {word.removesuffix("s") for word in re.findall(r"[a-z]+", name.lower())}
