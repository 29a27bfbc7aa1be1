-- Staff and how they sign in
--
-- `ciris-billing admins link` makes a link that signs somebody in once, if the identity provider is away.
SELECT email, role, is_active
FROM billing.add_admin(p_email => 'grace@example.com', p_role => 'viewer');
SELECT email, role, is_active
FROM billing.set_admin(p_email => 'grace@example.com', p_is_active => false,
    p_reason => 'left the team');
SELECT billing.end_staff_sessions(p_email => 'grace@example.com', p_reason => 'laptop lost')
    AS ended;
SELECT email, role, is_active FROM billing.list_admins();
