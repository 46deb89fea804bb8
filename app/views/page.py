"""What every page has: its look for the keyboard, and what is said aloud."""

import re

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
    """Says a new answer to those who listen to the page.

    No character of the text is HTML: but for letters, digits and spaces each
    is written as a number.
    """
    written = re.sub(r"[^\w\s]", lambda found: f"&#{ord(found[0])};", text)
    st.html(
        f'<div class="said" role="status" aria-live="polite">{written}</div>'
    )
