"""What every other part of Segue may use: errors, ids, logging and process helpers. Imports nothing of Segue."""
