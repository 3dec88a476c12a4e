-- $1 text: a role's name; null: this one's. Whether row-level security is on for public.agents, how many policies let role authenticated
-- read, whether there is that role, and whether the one that is named can become it. No row: there is no such table.
select c.relrowsecurity as is_on, a.oid is not null as has_role,
  (
    select count(*)
    from pg_catalog.pg_policy as p
    where p.polrelid = c.oid and p.polpermissive and p.polcmd in ('r', '*')
      and (p.polroles = '{0}' or a.oid = any (p.polroles))
  ) as policies,
  coalesce(
    pg_has_role(r.oid, a.oid, case when current_setting('server_version_num')::integer < 160000 then 'member' else 'set' end), false
  ) as can_become
from pg_catalog.pg_class as c
left join pg_catalog.pg_roles as a on a.rolname = 'authenticated'
left join pg_catalog.pg_roles as r on r.rolname = coalesce($1, current_user)
where c.relnamespace = (select oid from pg_catalog.pg_namespace where nspname = 'public') and c.relname = 'agents';
