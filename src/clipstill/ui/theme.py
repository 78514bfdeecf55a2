"""The colours and fonts of the page; ``style.css`` has those of the panels."""

from __future__ import annotations

from typing import Any

import gradio as gr

# From c50 to c950.
_TEAL = "#eef7f5 #d5ece8 #abd9d2 #74c0b5 #3cc2b0 #0c7a6d #0c7a6d #0a665b #085048 #173b37 #0b1f1c"
# Fonts that systems have: Gradio would fetch its own choice.
_FONTS = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Noto Sans, Liberation Sans, Arial"
_MONOSPACE = "ui-monospace, SFMono-Regular, Menlo, Consolas, Liberation Mono, monospace"
# Light, dark.
_PAPER = ("#faf9f6", "#121416")
_CARD = ("#ffffff", "#1a1d20")
_LINE = ("#e5e3dd", "#2c3034")
_INK = ("#1d1f21", "#e9eaeb")
_SOFT = ("#5d6268", "#a4aab0")
_ACCENT = ("#0c7a6d", "#3cc2b0")
_COLOURS = {
    "body_background_fill": _PAPER,
    "background_fill_primary": _CARD,
    "background_fill_secondary": _PAPER,
    "block_background_fill": _CARD,
    "block_border_color": _LINE,
    "border_color_primary": _LINE,
    "input_background_fill": _CARD,
    "input_border_color": _LINE,
    "panel_background_fill": _PAPER,
    "body_text_color": _INK,
    "body_text_color_subdued": _SOFT,
    "block_label_text_color": _SOFT,
    "block_title_text_color": _INK,
    "block_info_text_color": _SOFT,
    "button_primary_background_fill": _ACCENT,
    "button_primary_background_fill_hover": ("#0a665b", "#5fd0c1"),
    "button_primary_text_color": ("#ffffff", "#0b1f1c"),
    "button_secondary_background_fill": _CARD,
    "button_secondary_background_fill_hover": ("#edebe5", "#2a2e32"),
    "button_secondary_border_color": _LINE,
    "button_secondary_text_color": _INK,
    "link_text_color": _ACCENT,
    "slider_color": _ACCENT,
}


def theme() -> Any:
    """The theme of Gradio."""
    teal = gr.themes.Color(*_TEAL.split(), name="clipstill")
    base = gr.themes.Base(
        primary_hue=teal,
        secondary_hue=teal,
        neutral_hue="stone",
        radius_size="lg",
        font=_FONTS.split(", "),
        font_mono=_MONOSPACE.split(", "),
    )
    dark = {f"{name}_dark": colour for name, (_, colour) in _COLOURS.items()}
    return base.set(
        **{name: colour for name, (colour, _) in _COLOURS.items()},
        **dark,
        input_border_width="1px",
        button_border_width="1px",
        block_shadow="none",
        block_shadow_dark="none",
        button_primary_shadow="none",
    )
