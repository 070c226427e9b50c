"""Carrying a store from one machine to another, in a few files of bounded size."""
