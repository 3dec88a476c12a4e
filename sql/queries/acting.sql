-- Asked once the role is taken: does row-level security decide what it may see of the agents, and may it read every column
-- that the mapping uses? (Asked by name: an error would not say whether it was a column, or something that a policy calls.)
select row_security_active('public.agents') as secured,
  (
    select bool_and(has_column_privilege('public.agents', c.name, 'select'))
    from unnest(array[/* names */ 'id' /* end */]) as c (name)
  ) as privileged;
