"""``python tests/models`` measures every architecture anew and writes the table of docs/models.md."""

import table

table.write()
