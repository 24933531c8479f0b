"""The picture of a network: one well-formed document in which every box and dot says what it is."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from esper.report.network_map import MapGroup, MapLayer, MapPart, color, network_map

GROUPS = (MapGroup("a", "channel", 8, 0.5), MapGroup("b", "head", 4, 0.25))
LAYERS = (
    MapLayer("net.a", "conv2d", 3, 8, (MapPart(8, 0),), ()),
    MapLayer("net.b", "linear", 8, 16, (MapPart(4, 1), MapPart(12, -1, "view at <view> & co")), (0,)),
    MapLayer("net.c", "linear", 16, 8, (MapPart(8, 0),), (1,)),
)
SPACE = "{http://www.w3.org/2000/svg}"


def drawn() -> ET.Element:
    return ET.fromstring(network_map("a <net> & more", LAYERS, GROUPS))


def tooltips() -> list[str]:
    return [title.text or "" for title in drawn().iter(f"{SPACE}title")]


def test_the_picture_is_well_formed_whatever_names_say() -> None:
    assert drawn().get("aria-label") == "a <net> & more"


def test_a_frozen_part_says_why() -> None:
    assert "net.b: 12 frozen: view at <view> & co" in tooltips()


def test_boxes_grow_with_their_channels_and_show_their_group() -> None:
    boxes = {
        (box.find(f"{SPACE}title") or box).text or box[0].text: box
        for box in drawn().iter(f"{SPACE}rect")
        if len(box)
    }
    widths = {name.split(":")[0]: float(box.get("width", "0")) for name, box in boxes.items() if name}
    assert widths["net.a"] == widths["net.c"] < widths["net.b"]
    assert any(box.get("fill") == color(0) for box in boxes.values())


def test_a_group_has_one_track_with_a_dot_wherever_it_is_made_or_read() -> None:
    assert [text for text in tooltips() if text.startswith("a: ")] == [
        "a: made by net.a",
        "a: read by net.b",
        "a: made by net.c",
    ]
    assert len([p for p in drawn().iter(f"{SPACE}path") if p.get("class") == "lane"]) == 2


def test_groups_that_do_not_meet_share_a_track() -> None:
    layers = [
        MapLayer(f"l{n}", "linear", 4, 4, (MapPart(4, n),), (n - 1,) if n % 2 else ()) for n in range(4)
    ]
    groups = [MapGroup(f"g{n}", "channel", 4, 0.1) for n in range(4)]
    picture = ET.fromstring(network_map("net", layers, groups))
    starts = {p.get("d", "")[1:].split()[0] for p in picture.iter(f"{SPACE}path")}
    assert len(starts) < 4


def test_a_network_without_layers_can_be_drawn() -> None:
    assert ET.fromstring(network_map("empty", (), ())).tag == f"{SPACE}svg"
