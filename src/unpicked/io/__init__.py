"""Files to records and back: MRC maps and micrographs, STAR tables, atomic structures."""
