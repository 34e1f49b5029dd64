"""Starts, feeds and reads the programs of an end-to-end run: Postlane in the middle, real peers on both sides."""
