"""Letters of any language in charts: matplotlib's own font first, then what the machine has for others.

matplotlib is imported when a chart is drawn, and its settings stay as they were.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

from appliance.images.fonts import font_paths


@contextlib.contextmanager
def any_letters() -> Iterator[None]:
    """Charts that are made and saved inside take letters from every font of `font_paths`.

    A letter that none of them has becomes an empty box, without a warning.
    """
    import matplotlib as mpl
    from matplotlib import font_manager

    families = ["DejaVu Sans"]
    for path in font_paths():
        family = font_manager.get_font(path).family_name
        if family not in families:
            font_manager.fontManager.addfont(path)
            families.append(family)
    with mpl.rc_context({"font.family": families}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        yield
