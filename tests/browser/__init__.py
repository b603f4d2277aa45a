"""The dashboard in a real Chromium: journeys, and pictures of every page to look at."""
