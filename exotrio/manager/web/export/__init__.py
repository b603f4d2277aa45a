"""A run as one HTML page that stands alone: ``report`` builds it.

``states`` picks the states to show, and groups their errors by how they were raised. ``texts`` masks the
secrets of the graph in every value and error, and bounds their length.
"""
