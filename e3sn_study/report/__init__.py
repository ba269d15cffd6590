"""The report page, the README's table and the model card, made of files of record and settings."""
