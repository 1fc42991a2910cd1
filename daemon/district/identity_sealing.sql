-- The key to which something can be sealed for one machine alone, as it told it.

ALTER TABLE machine_key ADD COLUMN sealing BLOB CHECK (length(sealing) = 32); -- X25519 public key; NULL: not told yet
