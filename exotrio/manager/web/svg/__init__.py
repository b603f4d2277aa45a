"""Pictures as SVG: bars, charts over time, graphs, timelines. Pure functions from data to markup.

``elements`` writes every attribute and text, escaped. Colours and fonts come from the style sheet by class.
"""
