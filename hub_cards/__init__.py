"""Templates of model cards, and the code of endpoints and Spaces, as package data."""
