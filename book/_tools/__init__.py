"""The book's own machinery: from a chapter's words to an executed, stamped and checked page."""
