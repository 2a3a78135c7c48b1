"""Charts with one bar per name, optionally with whiskers and numbers."""

from collections.abc import Sequence

import altair as alt
from numpy.typing import ArrayLike

from evenload.pipeline.charts import style
from evenload.pipeline.charts.style import Chart

BAR_PIXELS = 26
LOW, HIGH = "smallest", "largest"


def bar_chart(
    names: Sequence[str],
    value_N: ArrayLike,
    what: str,
    title: str,
    description: str,
    *,
    form: str = ".3f",
    whiskers: tuple[ArrayLike, ArrayLike] | None = None,
    is_labelled: bool = False,
) -> Chart:
    """Horizontal bars from zero, in the given order.

    Args:     what: title of the names
              title: title of the values, with their unit
              form: d3 format of the values
              whiskers: smallest and largest value of each bar
              is_labelled: write its value beside every bar
    """
    ends = dict(zip((LOW, HIGH), whiskers or (), strict=False))
    base = alt.Chart(style.table({what: list(names), title: value_N, **ends}))
    y = style.name(alt.Y, what, sort=None, title=None)
    shown = style.tips({what: "", title: form} | dict.fromkeys(ends, form))
    x = style.number(alt.X, title, axis=alt.Axis(grid=True))
    layers = [base.mark_bar(color=style.BLUE, cornerRadiusEnd=2).encode(x=x, y=y, tooltip=shown)]
    if whiskers:
        rule = base.mark_rule(color=style.MUTED, strokeWidth=1.2)
        layers.append(
            rule.encode(y=y, x=style.number(alt.X, LOW, title=title), x2=alt.X2(field=HIGH))
        )
    if is_labelled:
        text = base.mark_text(align="left", dx=5, color=style.MUTED)
        at, value = (HIGH if whiskers else title), style.number(alt.Text, title, format=form)
        layers.append(text.encode(x=style.number(alt.X, at, title=title), y=y, text=value))
    return style.layered(
        *layers, description=description, height=80 + BAR_PIXELS * max(3, len(names))
    )


def column_chart(
    names: Sequence[str],
    value_N: ArrayLike,
    what: str,
    title: str,
    description: str,
    *,
    form: str = ".3f",
    height: float = 300,
    colours: Sequence[str] = (),
    note: str = "",
) -> Chart:
    """Vertical bars from zero.

    Args:     colours: one per bar
              note: text in the upper left
              (others): see `bar_chart`
    """
    base = alt.Chart(style.table({what: list(names), title: value_N}))
    x = style.name(alt.X, what, sort=None, axis=alt.Axis(labelAngle=0))
    fills = dict(zip(names, colours or [style.BLUE] * len(names), strict=True))
    layers = [
        base.mark_bar().encode(
            x=x,
            y=style.number(alt.Y, title),
            color=style.scaled(alt.Color, what, fills, None),
            tooltip=style.tips({what: "", title: form}),
        )
    ]
    if note:
        once = alt.Chart(alt.InlineData(values=[{}]))
        layers.append(once.mark_text(text=note, align="left", x=8, y=8, fontSize=13))
    return style.layered(*layers, description=description, height=height)
