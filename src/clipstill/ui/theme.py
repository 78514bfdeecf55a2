"""Gradio's own parts in the colours of ``style.css`` and in fonts that systems have."""

from __future__ import annotations

from typing import Any

import gradio as gr

# From c50 to c950.
_TEAL = "#eef7f5 #d5ece8 #abd9d2 #74c0b5 #3cc2b0 #0c7a6d #0c7a6d #0a665b #085048 #173b37 #0b1f1c"
# Gradio would fetch its own choice.
_FONTS = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Noto Sans, Liberation Sans, Arial"
_MONOSPACE = "ui-monospace, SFMono-Regular, Menlo, Consolas, Liberation Mono, monospace"
# Colour of style.css, and what has it. Each colour is another one where the page is dark.
_COLOURS = {
    "paper": ("body_background_fill", "background_fill_secondary", "panel_background_fill"),
    "card": (
        "background_fill_primary",
        "block_background_fill",
        "input_background_fill",
        "button_secondary_background_fill",
    ),
    "line": ("block_border_color", "border_color_primary", "input_border_color", "button_secondary_border_color"),
    "ink": ("body_text_color", "block_title_text_color", "button_secondary_text_color"),
    "soft": ("body_text_color_subdued", "block_label_text_color", "block_info_text_color"),
    "track": ("button_secondary_background_fill_hover",),
    "accent": ("button_primary_background_fill", "link_text_color", "slider_color"),
    "accent-hover": ("button_primary_background_fill_hover",),
    "on-accent": ("button_primary_text_color",),
}


def theme() -> Any:
    """The theme of the page."""
    teal = gr.themes.Color(*_TEAL.split())
    base = gr.themes.Base(
        primary_hue=teal,
        secondary_hue=teal,
        neutral_hue="stone",
        radius_size="lg",
        font=_FONTS.split(", "),
        font_mono=_MONOSPACE.split(", "),
    )
    places = {place: f"var(--cs-{colour})" for colour, places in _COLOURS.items() for place in places}
    return base.set(
        **places,
        **{f"{place}_dark": colour for place, colour in places.items()},
        input_border_width="1px",
        button_border_width="1px",
        block_shadow="none",
        block_shadow_dark="none",
        button_primary_shadow="none",
    )
