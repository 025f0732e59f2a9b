"""Where a study's record lies, and how several drivers share it: URLs, journals, turns, patience, copies."""
