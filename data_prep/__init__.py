"""From FASTA to corpus and token files; runs once, on a CPU node, without torch."""
