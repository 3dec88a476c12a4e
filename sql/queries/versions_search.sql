-- versions: what assistant_versions.sql says; $2 jsonb: what their metadata contains; $3 bigint limit; $4 bigint offset. A page of them,
-- the newest first, and one more where there is one: that is `beyond`.
select *, created_at as updated_at, place - $4 > $3 as beyond
from (select v.*, row_number() over (order by v.version desc) as place from versions as v where v.metadata @> $2) as placed
order by place
limit $3 + 1 offset $4
