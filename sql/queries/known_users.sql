-- $1 uuid[]: users, and what Supabase Auth would say of each in a token: of that, only what they cannot write themselves.
select id, coalesce(raw_app_meta_data::text, '{}') as app_metadata, /* anonymous */ coalesce(is_anonymous, false) /* end */ as is_anonymous
from auth.users
where id = any ($1::uuid[]);
