"""Pictures as SVG: pure functions from data to markup.

``bars``, ``trends`` over time, a ``graph`` (laid out by ``graph_layout``) and a ``timeline``.

``elements`` writes every attribute and text, escaped. Colours and fonts come from the style sheet by class.
"""
