"""From files of record to tables, claims, the report page and the model card: pure functions of what was measured."""
