"""A run as one HTML page that stands alone: ``report`` builds it.

``states`` picks the states to show. ``web.texts`` masks the secrets of the graph in every value and error.
"""
