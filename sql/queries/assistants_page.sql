-- page: what assistants_search.sql found; $12 bigint: how many bytes of text that may be. Its rows in their order, or, where it is
-- more, one row that says no more than how much it is.
select page.*, weighed.bytes
from (
  select sum(octet_length(concat(graph_id, name, description, config, context, metadata)))::bigint as bytes from page
) as weighed
left join page on weighed.bytes <= $12
order by page.place;
