-- page: what assistants_search.sql or versions_search.sql has listed; :most: how much that may be, in bytes of text, where a value is
-- sixteen at least and an object ten times that: so they are in memory, however short they are written. Its rows in their order, or,
-- where they are more, one row that says no more than how much; and whether there are more beyond them.
select page.*, weighed.bytes, weighed.more
from (
  select coalesce(bool_or(beyond), false) as more,
    sum(greatest(octet_length(t)::bigint, 16::bigint * (
      octet_length(t) - octet_length(replace(t, ',', '')) + 10 * (octet_length(t) - octet_length(replace(t, '{', ''))))))
      filter (where not beyond)::bigint as bytes
  from page, concat(graph_id, name, description, config, context, metadata) as t
) as weighed
left join page on weighed.bytes <= :most and not page.beyond
order by page.place
