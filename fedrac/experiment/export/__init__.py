"""What comes out of a run, in the formats of other tools."""
