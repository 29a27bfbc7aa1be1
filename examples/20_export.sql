-- Hand out a person's data
--
-- One JSON document over every table, of the account and of those merged into it; the export is in the audit log.
SELECT t.key AS table_name, json_array_length(t.value) AS rows
FROM billing.export_personal_data(
        p_account_id => billing.find_account('ada@example.com')
    ) AS document,
    json_each(document -> 'tables') AS t
WHERE json_typeof(t.value) = 'array' ORDER BY 1;
