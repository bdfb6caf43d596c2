"""``naf-hub segment``: a photo into classes that are named in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from naf_hub.options import (
    backbone_constructor_option,
    backbone_option,
    backbone_weights_option,
    constructor_option,
    device_option,
    json_option,
    parse_backbone_option,
    parse_upsamplers,
    pick_device,
    print_json,
    print_table,
    read_settings,
    threads_option,
    upsampler_option,
    upsampler_weights_option,
    use_threads,
)

from .vocabulary_options import check_vocabulary, clip_option, threshold_option, window_options


@click.command("segment")
@click.argument("photo", type=click.Path(dir_okay=False))
@click.option("--classes", required=True, metavar="WORDS", callback=check_vocabulary,
              help='Look for these classes: words with commas between classes and semicolons between synonyms, as in '
                   '"cat;kitten,sofa,wall", or a .txt file with a class a line.')  # fmt: skip
@click.option("-o", "--out", required=True, type=click.Path(file_okay=False), help="Write to this folder.")
@upsampler_option("naf")
@backbone_option("pico")
@upsampler_weights_option()
@backbone_weights_option
@constructor_option
@backbone_constructor_option
@clip_option
@window_options
@threshold_option
@device_option
@threads_option
@click.option("--force", is_flag=True, help="Make anew what naf-hub wrote before; other files stay.")
@json_option
def segment(
    photo: str, classes: str, out: str, upsampler: str, backbone: str, weights: str | None,
    backbone_weights: str | None, options: dict[str, Any], backbone_options: dict[str, Any], device: str,
    threads: int | None, force: bool, as_json: bool, **protocol: Any,
) -> None:  # fmt: skip
    """Segment a photo into classes that are named in words; nothing is trained.

    Writes NAME.classes.png, whose values are the numbers of the classes from 0 on, and NAME.segments.png, the photo
    beside its classes and a legend. Every pixel gets one of the classes: name also what is around the things you look
    for. CLIP's weights come from the Hub, and OpenCLIP with the extra "eval".
    """
    from naf_hub.images import read_image
    from naf_hub.made_with import describe_photo, record

    from .clip import load_clip
    from .segment_pictures import MOST_CLASSES, shares, targets, write_class_map, write_picture
    from .segmenter import Segmenter
    from .vocabulary import Vocabulary
    from .vocabulary_protocol import VocabularyProtocol

    use_threads(threads)
    (contender,) = parse_upsamplers([upsampler], weights, options)
    behind = parse_backbone_option(backbone, backbone_weights, backbone_options)
    vocabulary = Vocabulary.parse(classes)
    if len(vocabulary.names) > MOST_CLASSES:
        raise click.UsageError(f"--classes: {len(vocabulary.names)} of them; a map holds {MOST_CLASSES}")
    chosen = read_settings(VocabularyProtocol.read, {**protocol, "classes": classes})
    source, where = Path(photo), pick_device(device)
    map_path, picture_path = targets(Path(out), source, force)
    image = read_image(source)
    clip = load_clip(chosen.clip, where)
    model = contender.load(behind.name, where)
    segmenter = Segmenter(clip, behind.load(device=where), vocabulary, chosen, where)
    labels = segmenter.segment(segmenter.look(image), model)
    names = list(vocabulary.names)
    settings = {"upsampler": contender.label, "backbone": behind.label, "classes": names, **clip.origin}
    made = record(settings, describe_photo(source, Path(source.name)))
    write_class_map(map_path, labels, made)
    write_picture(picture_path, image, labels, names, f"{contender.label} on {behind.label}", made)
    found = dict(zip(names, shares(labels, len(names)), strict=True))
    files = [str(map_path), str(picture_path)]
    if as_json:
        print_json({"photo": photo, "classes": names, "shares": found, "files": files})
        return
    print_table([(str(n), name, f"{100 * share:.1f} %") for n, (name, share) in enumerate(found.items())])
    for file in files:
        click.echo(f"wrote {file}")
