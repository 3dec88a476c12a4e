-- versions: what assistant_versions.sql says; $2 bigint: one of them.
select *, created_at as updated_at from versions where version = $2
