-- Roles whose sessions run without triggers in this database, by a setting that stays.
SELECT coalesce(r.rolname::text, 'every role'), setting
FROM pg_db_role_setting AS s
LEFT JOIN pg_roles AS r ON r.oid = s.setrole
CROSS JOIN LATERAL unnest(s.setconfig) AS one(setting)
WHERE setting LIKE 'session_replication_role=%%' AND setting NOT LIKE '%%=origin'
    AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
