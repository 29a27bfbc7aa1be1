-- Prices and settings
--
-- What is left out stays as it is. People see the new price with their next purchase.
SELECT free_uses, pack_uses, billing.describe_money(pack_price_minor, pack_currency) AS price
FROM billing.get_settings();
SELECT pack_uses, billing.describe_money(pack_price_minor, pack_currency) AS price
FROM billing.set_pricing(p_pack_price_minor => 700, p_reason => 'new price');
