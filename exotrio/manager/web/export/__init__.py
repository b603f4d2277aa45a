"""A run as one HTML page that stands alone: ``report`` builds it.

``texts`` masks the secrets of the graph in every value and error, and bounds their length. ``faults`` groups
the errors by how they were raised; ``states`` picks the states to show.
"""
