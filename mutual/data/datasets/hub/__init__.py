"""The data sets of `hfds/...`: tables that Hugging Face `datasets` opens."""
