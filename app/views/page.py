"""What every page has: its look for the keyboard, and what is said aloud."""

import html

import streamlit as st

STYLE = """<style>
.said {
  position: absolute; width: 1px; height: 1px;
  overflow: hidden; clip-path: inset(50%); white-space: nowrap;
}
[data-testid="stTopNavLink"]:focus-visible,
[data-testid="stTopNavLinkContainer"] a:focus-visible {
  outline: 2px solid currentColor; outline-offset: 2px; border-radius: 6px;
}
</style>"""


def announce(text: str) -> None:
    """Says a new answer to those who listen to the page."""
    st.html(
        '<div class="said" role="status" aria-live="polite">'
        f"{html.escape(text)}</div>"
    )
