-- page: what assistants_search.sql found; $12 bigint: how much that may be, in bytes of text, where a value is sixteen at least and
-- an object ten times that: so they are in memory, however short they are written. Its rows in their order, or, where it is more, one
-- row that says no more than how much it is.
select page.*, weighed.bytes
from (
  select sum(greatest(octet_length(t)::bigint, 16::bigint * (
    octet_length(t) - octet_length(replace(t, ',', '')) + 10 * (octet_length(t) - octet_length(replace(t, '{', ''))))))::bigint as bytes
  from page, concat(graph_id, name, description, config, context, metadata) as t
) as weighed
left join page on weighed.bytes <= $12
order by page.place;
