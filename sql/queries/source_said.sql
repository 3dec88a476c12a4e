-- (An expression of read_agents.sql.) $2 text: what else the mapping goes by. A hash over all that the mapping reads of an agent `a`:
-- every column as text, so that it is what row_to_json has, and record_send tells where each one ends.
-- look_over.sql and glance_said.sql make the same.
sha256(record_send(row($2::text, /* agent said */ null::bytea /* end */, tools.said, models.said)))
