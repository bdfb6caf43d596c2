"""What the values of published label pictures mean: values of one name are one class, in the published order."""

from __future__ import annotations

from naf_hub.labels import Classes
from naf_hub.voc import VOC_NAMES, VOC_VOID

VOID = 255


def _values(text: str) -> list[int]:
    """``"1-3, 7"`` as 1, 2, 3 and 7."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


# The 27 coarse classes of COCO-Stuff by their customary names, and the fine ids of each, counted from 0.
_COCO = {
    "electronic": "71-76",
    "appliance": "77-82",
    "food": "51-60",
    "furniture": "61-70",
    "indoor": "83-90",
    "kitchen": "43-50",
    "accessory": "25-32",
    "animal": "15-24",
    "outdoor": "9-14",
    "person": "0",
    "sports": "33-42",
    "vehicle": "1-8",
    "ceiling": "101-102",
    "floor": "100,113-117",
    "food-stuff": "120-121,152,169",
    "furniture-stuff": "97,106-107,109,111,122,129,132,155,160,164",
    "raw-material": "99,131,138,142",
    "textile": "91-92,103-104,108,130,136,140,151,166-167",
    "wall": "170-176",
    "window": "179-180",
    "building": "94-95,127,150,157,165",
    "ground": "110,124-125,135,139,143-144,146,148,153,158",
    "plant": "93,96,118,123,128,133,141,162,168",
    "sky": "105,156",
    "solid": "126,134,149,159,161,181",
    "structural": "98,112,137,145,163",
    "water": "119,147,154,177-178",
}
# The classes of Cityscapes that are scored, and their raw ids (not the ids for training).
_CITYSCAPES = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car",
    27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip
# KITTI-360 has those and more: a garage is a building, a gate a fence, a small pole a pole.
_KITTI360 = {**_CITYSCAPES, 34: "building", 35: "fence", 37: "pole"}
_ADE20K = (
    "other,wall,building,sky,floor,tree,ceiling,road,bed,windowpane,grass,cabinet,sidewalk,person,earth,door,table,"
    "mountain,plant,curtain,chair,car,water,painting,sofa,shelf,house,sea,mirror,rug,field,armchair,seat,fence,desk,"
    "rock,wardrobe,lamp,bathtub,railing,cushion,base,box,column,signboard,chest of drawers,counter,sand,sink,"
    "skyscraper,fireplace,refrigerator,grandstand,path,stairs,runway,case,pool table,pillow,screen door,stairway,"
    "river,bridge,bookcase,blind,coffee table,toilet,flower,book,hill,bench,countertop,stove,palm,kitchen island,"
    "computer,swivel chair,boat,bar,arcade machine,hovel,bus,towel,light,truck,tower,chandelier,awning,streetlight,"
    "booth,television receiver,airplane,dirt track,apparel,pole,land,bannister,escalator,ottoman,bottle,buffet,poster,"
    "stage,van,ship,fountain,conveyer belt,canopy,washer,plaything,swimming pool,stool,barrel,basket,waterfall,tent,"
    "bag,minibike,cradle,oven,ball,food,step,tank,trade name,microwave,pot,animal,bicycle,lake,dishwasher,screen,"
    "blanket,sculpture,hood,sconce,vase,traffic light,tray,ashcan,fan,pier,crt screen,plate,monitor,bulletin board,"
    "shower,radiator,glass,clock,flag"
)


def coco_classes() -> Classes:
    """COCO-Stuff's 27 coarse classes."""
    scored = {number: name for name, text in _COCO.items() for number in _values(text)}
    return Classes.of(scored, {VOID}, "COCO-Stuff")


def voc_classes() -> Classes:
    """Pascal VOC's 21, of which the background is one."""
    return Classes.of(dict(enumerate(VOC_NAMES)), {VOC_VOID}, "Pascal VOC 2012")


def ade20k_classes() -> Classes:
    """The 150 of ADE20K's challenge of 2016, and before them "other", which counts."""
    return Classes.of(dict(enumerate(_ADE20K.split(","))), source="ADE20K")


def cityscapes_classes() -> Classes:
    """Cityscapes' 19 of raw ids; a licence plate (-1, which 8 bits store as 255) is not scored."""
    return Classes.of(_CITYSCAPES, {*range(34), VOID} - set(_CITYSCAPES), "Cityscapes")


def kitti360_classes() -> Classes:
    """KITTI-360's raw ids as Cityscapes' 19."""
    return Classes.of(_KITTI360, {*range(45), VOID} - set(_KITTI360), "KITTI-360")
