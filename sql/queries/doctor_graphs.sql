-- Which graphs active agents name, and how many of them each.
select g.graph_id, count(*) as agents
from (
  select /* graph_id */ a.graph_id::text /* end */ as graph_id
  from public.agents as a
  where /* status */ a.status::text = 'active' /* end */
    and /* deleted_at */ a.deleted_at is null /* end */
) as g
group by g.graph_id
order by agents desc, g.graph_id
limit 50;
