-- Asked once the role is taken: is it, and does row-level security decide what it may see of the agents?
select current_user::text as role, row_security_active('public.agents') as secured;
