"""The dashboard in a real Chromium: journeys, and the layout of every page."""
