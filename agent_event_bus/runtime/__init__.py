"""The bus of a multi-stream agent runtime."""
