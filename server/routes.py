"""Every URL of the service: its method, path, guard and handler, and all that the API's description
says of it. Nothing else is served. Each line names its guard; public routes name one too."""

from __future__ import annotations

from dataclasses import replace

from aiohttp import web

from server.admin_api import accounts as accounts_api
from server.admin_api import analytics as analytics_api
from server.admin_api import api_keys as keys_api
from server.admin_api import audit_log as audit_api
from server.admin_api import caps as caps_api
from server.admin_api import denials as denials_api
from server.admin_api import merges as merges_api
from server.admin_api import models as s
from server.admin_api import payments as payments_api
from server.admin_api import personal_data as personal_data_api
from server.admin_api import pricing as pricing_api
from server.admin_api import providers as providers_api
from server.admin_api import refunds as refunds_api
from server.admin_api import reversals as reversals_api
from server.admin_api import staff as staff_api
from server.admin_api import statements as statements_api
from server.admin_api import top_ups as top_ups_api
from server.admin_api import users as users_api
from server.admin_api import webhooks as webhooks_api
from server.admin_api.endpoint import staff_endpoint
from server.admin_pages import accounts as accounts_page
from server.admin_pages import api_keys as keys_page
from server.admin_pages import audit as audit_page
from server.admin_pages import caps as caps_page
from server.admin_pages import dashboard, sign_in
from server.admin_pages import merges as merges_page
from server.admin_pages import payments as payments_page
from server.admin_pages import personal_data as personal_data_page
from server.admin_pages import proof as proof_page
from server.admin_pages import refunds as refunds_page
from server.admin_pages import reversals as reversals_page
from server.admin_pages import search as search_page
from server.admin_pages import settings as settings_page
from server.admin_pages import staff as staff_pages
from server.admin_pages import statements as statements_page
from server.admin_pages import top_ups as top_ups_page
from server.admin_pages import webhooks as webhooks_page
from server.admin_pages.page import page, page_for_browsers, public_page
from server.agent import (
    accounts,
    charges,
    checks,
    credits,
    holds,
    purchases,
    reversals,
    top_ups,
    transactions,
)
from server.agent import models as m
from server.agent import statements as agent_statements
from server.agent.endpoint import READ, WRITE, agent_endpoint
from server.http.aiohttp_server import ignore_other_expectations
from server.http.app_keys import ROUTE_TABLE
from server.http.route import (
    INTERNAL,
    OPEN_PAGE,
    PAGE,
    PUBLIC,
    STAFF,
    Handler,
    Route,
    Section,
)
from server.http.statements import AgentStatement, BalanceQuery, PeriodQuery, StaffStatement
from server.http.top_ups import TopUp
from server.public import docs, service
from server.staff import oauth
from server.staff.guard import staff_api as guarded_for_scripts
from server.webhooks import payment_events

# fmt: off
SECTIONS: tuple[Section, ...] = (
    Section("Checks and charges", "The two calls an agent makes all day.", (
        Route("POST", "/v1/billing/credits/check", READ, checks.check_credit,
              "May this user go on?", body=m.CheckRequest, answer=checks.CreditCheck,
              example=checks.EXAMPLE, errors=(holds.ALREADY_EXISTS,)),
        Route("POST", "/v1/billing/charges", WRITE, charges.create_charge,
              "This user used one", body=charges.ChargeRequest, answer=charges.Charge,
              example=charges.CREATED, success=201, idempotent=True,
              errors=("charge_currency_mismatch", "insufficient_credits",
                      charges.ACCOUNT_CAP_REACHED, "account_suspended", "account_closed",
                      "account_not_found", charges.ALREADY_EXISTS, charges.CAP_REACHED)),
        Route("POST", "/v1/billing/charges:batch", WRITE, charges.create_charges,
              "Up to 1,000 charges, an outcome each", body=charges.ChargeBatchRequest,
              answer=charges.ChargeBatch, example=charges.BATCH, idempotent=True),
        Route("POST", "/v1/billing/charges/{charge_id}/reverse", WRITE, reversals.reverse_charge,
              "A failed job gives the use back", parameters=reversals.ChargePath,
              body=reversals.ReversalRequest, answer=reversals.Reversal,
              example=reversals.EXAMPLE, success=201, idempotent=True, errors=reversals.ERRORS),
    )),
    Section("Holds", "Reserve, work, settle: for work whose price is known afterwards.", (
        Route("POST", "/v1/billing/holds", WRITE, holds.create_hold,
              "Keep credits for some work", body=holds.HoldRequest, answer=holds.Hold,
              example=holds.CREATED, success=201, successes=(200,), idempotent=True,
              errors=("charge_currency_mismatch", "insufficient_credits", "account_suspended",
                      "account_closed", "account_not_found", charges.ACCOUNT_CAP_REACHED,
                      charges.CAP_REACHED, holds.ALREADY_EXISTS)),
        Route("POST", "/v1/billing/holds/{hold_id}/capture", WRITE, holds.capture_hold,
              "Charge what was used", parameters=holds.HoldPath, body=holds.CaptureRequest,
              answer=holds.Hold, example=holds.CAPTURED, headers=("Idempotent-Replayed",),
              errors=("hold_not_found", holds.SETTLED, holds.EXPIRED, holds.EXCEEDED)),
        Route("POST", "/v1/billing/holds/{hold_id}/release", WRITE, holds.release_hold,
              "Give back all that is held", parameters=holds.HoldPath, body=holds.ReleaseRequest,
              answer=holds.Hold, example=holds.RELEASED, headers=("Idempotent-Replayed",),
              errors=("hold_not_found", "hold_settled")),
        Route("POST", "/v1/billing/holds/{hold_id}/extend", WRITE, holds.extend_hold,
              "Let a hold last longer", parameters=holds.HoldPath, body=holds.ExtendRequest,
              answer=holds.Hold, example=holds.EXTENDED,
              errors=("hold_not_found", "hold_settled", holds.EXPIRED)),
        Route("GET", "/v1/billing/holds/{hold_id}", READ, holds.get_hold, "Read a hold",
              parameters=holds.HoldPath, answer=holds.Hold, example=holds.READ_ONE,
              errors=("hold_not_found",)),
        Route("GET", "/v1/billing/accounts/{oauth_provider}/{external_id}/holds", READ,
              holds.list_account_holds, "An account's holds, newest first",
              parameters=m.AccountPath, query=holds.HoldsQuery, answer=holds.HoldPage,
              example=holds.LIST, errors=("account_not_found",)),
    )),
    Section("Credits", "What users pay with once their free uses are gone.", (
        Route("POST", "/v1/billing/credits", WRITE, credits.create_credit,
              "Add paid credits", body=m.CreditRequest, answer=credits.Credit,
              example=credits.CREATED, success=201, idempotent=True,
              errors=("credit_currency_mismatch", "account_not_found", credits.ALREADY_EXISTS,
                      "balance_overflow", "payment_already_credited",
                      "payment_of_another_account")),
    )),
    Section("Purchases", "Users buy credits in packs; Stripe takes the payment.", (
        Route("POST", "/v1/billing/purchases", WRITE, purchases.create_purchase,
              "Sell a pack of uses", body=m.PurchaseRequest, answer=purchases.Payment,
              example=purchases.OFFERED, success=201, idempotent=True,
              errors=purchases.PROVIDER_FAULTS),
        Route("GET", "/v1/billing/purchases/{payment_id}", READ, purchases.get_purchase,
              "Read a payment", parameters=m.PurchasePath, answer=purchases.Payment,
              example=purchases.PAID, errors=("payment_not_found", *purchases.PROVIDER_FAULTS)),
        Route("GET", "/v1/billing/purchases/{payment_id}/status", READ,
              purchases.get_purchase_status, "Read a payment, by its other address",
              parameters=m.PurchasePath, answer=purchases.Payment, example=purchases.PAID,
              errors=("payment_not_found", *purchases.PROVIDER_FAULTS)),
        Route("PUT", "/v1/billing/accounts/{oauth_provider}/{external_id}/top-up", WRITE,
              top_ups.set_top_up, "Buy by a saved card when credits run low",
              parameters=m.AccountPath, body=top_ups.TopUpRequest, answer=TopUp,
              example=top_ups.AGREED, errors=top_ups.CONSENT_ERRORS),
        Route("GET", "/v1/billing/accounts/{oauth_provider}/{external_id}/top-up", READ,
              top_ups.get_top_up, "Read an account's top-up", parameters=m.AccountPath,
              answer=TopUp, example=top_ups.READ, errors=top_ups.ERRORS),
        Route("DELETE", "/v1/billing/accounts/{oauth_provider}/{external_id}/top-up", WRITE,
              top_ups.end_top_up, "Withdraw the consent to a top-up", parameters=m.AccountPath,
              answer=TopUp, example=top_ups.WITHDRAWN, errors=top_ups.ERRORS),
        *payment_events.webhook_routes(),
    )),
    Section("Accounts", "Who the users are and what became of their uses.", (
        Route("POST", "/v1/billing/accounts", WRITE, accounts.create_account,
              "Find or create an account", body=m.AccountRequest, answer=accounts.Account,
              example=accounts.CREATED, success=201, idempotent=True),
        Route("GET", "/v1/billing/accounts/{oauth_provider}/{external_id}", READ,
              accounts.get_account, "Read an account", parameters=m.AccountPath,
              query=m.AccountQuery, answer=accounts.AccountNow, example=accounts.READ,
              errors=("account_not_found",)),
        Route("GET", "/v1/billing/accounts/{oauth_provider}/{external_id}/statement", READ,
              agent_statements.get_account_statement, "An account's statement of a period",
              parameters=m.AccountPath, query=PeriodQuery, answer=AgentStatement,
              example=agent_statements.STATEMENT, headers=("X-Entry-Count",),
              errors=("account_not_found",)),
        Route("GET", "/v1/billing/accounts/{oauth_provider}/{external_id}/balance", READ,
              agent_statements.get_account_balance, "What an account had at a time",
              parameters=m.AccountPath, query=BalanceQuery, answer=agent_statements.Balance,
              example=agent_statements.BALANCE, errors=("account_not_found",)),
        Route("GET", "/v1/billing/transactions", READ, transactions.list_transactions,
              "An account's history, newest first", query=m.TransactionsQuery,
              answer=transactions.TransactionPage, example=transactions.EXAMPLE),
    )),
    Section("Service", "About the service itself; needs no key.", (
        Route("GET", "/", PUBLIC, service.get_root, "What answers here",
              answer=service.ServiceInfo, example=service.ROOT),
        Route("GET", "/health", PUBLIC, service.get_health, "Is the service fit to serve?",
              answer=service.Health, example=service.HEALTH, errors=(service.UNHEALTHY,)),
        Route("GET", "/metrics", INTERNAL, service.prometheus, "Prometheus metrics"),
        Route("GET", "/openapi.json", PUBLIC, docs.get_openapi, "This description",
              answer=docs.OpenApi, example=docs.OPENAPI),
        Route("GET", "/docs", PUBLIC, docs.get_docs, "This description as a page",
              content_type="text/html"),
        Route("GET", "/docs/{audience}", PUBLIC, docs.get_docs_for,
              "The calls of one audience as a page", content_type="text/html",
              example=docs.AUDIENCE, errors=("not_found",)),
        Route("GET", "/llms.txt", PUBLIC, docs.get_llms_text,
              "This description in short, for language models", content_type="text/plain"),
        Route("GET", "/static/{name}", PUBLIC, docs.get_static_file, "Style sheets",
              content_type="text/css", example=docs.STATIC_FILE, headers=("Cache-Control",),
              errors=("not_found",)),
    )),

    Section("Staff: accounts", "Looking after the users' accounts.", (
        Route("GET", "/admin/api/users", STAFF, users_api.list_users, "Find accounts",
              query=s.UsersQuery, answer=users_api.UserPage, example=users_api.LIST),
        Route("GET", "/admin/api/users/{account_id}", STAFF, users_api.get_user,
              "Read an account", parameters=s.UserPath, answer=users_api.UserDetails,
              example=users_api.DETAILS, errors=("user_not_found",)),
        Route("GET", "/admin/api/users/{account_id}/transactions", STAFF,
              accounts_api.list_user_transactions, "An account's ledger", parameters=s.UserPath,
              query=s.LedgerQuery, answer=accounts_api.LedgerPage, example=accounts_api.LEDGER,
              errors=("user_not_found", "invalid_argument")),
        Route("GET", "/admin/api/users/{account_id}/statement", STAFF,
              statements_api.get_user_statement, "An account's statement of a period",
              parameters=s.UserPath, query=PeriodQuery, answer=StaffStatement,
              example=statements_api.STATEMENT, headers=("X-Entry-Count",),
              errors=("user_not_found", "invalid_argument")),
        Route("GET", "/admin/api/users/{account_id}/statement.csv", STAFF,
              statements_api.export_user_statement, "An account's statement as CSV",
              parameters=s.UserPath, query=PeriodQuery, content_type="text/csv",
              example=statements_api.CSV_STATEMENT, headers=("X-Entry-Count",),
              errors=("user_not_found", "invalid_argument")),
        Route("GET", "/admin/api/users/{account_id}/balance", STAFF,
              statements_api.get_user_balance, "What an account had at a time",
              parameters=s.UserPath, query=BalanceQuery, answer=statements_api.UserBalance,
              example=statements_api.BALANCE, errors=("user_not_found",)),
        Route("GET", "/admin/api/users/{account_id}/usage", STAFF,
              statements_api.list_user_usage, "An account's usage and money by day",
              parameters=s.UserPath, query=s.DaysQuery, answer=list[statements_api.UsageDay],
              example=statements_api.USER_USAGE, errors=("user_not_found", "invalid_argument")),
        Route("GET", "/admin/api/users/{account_id}/checks", STAFF, accounts_api.list_user_checks,
              "An account's checks", parameters=s.UserPath, query=s.PageQuery,
              answer=accounts_api.CheckPage, example=accounts_api.CHECKS,
              errors=("user_not_found",)),
        Route("GET", "/admin/api/users/{account_id}/denial", STAFF, denials_api.explain_denial,
              "Why an account was refused", parameters=s.UserPath, query=s.DenialQuery,
              answer=denials_api.Denial, example=denials_api.DENIAL,
              errors=("user_not_found", "invalid_argument")),
        Route("POST", "/admin/api/users/{account_id}/credits", STAFF, accounts_api.adjust_credits,
              "Grant or take credits", parameters=s.UserPath, body=s.AdjustCreditsRequest,
              answer=accounts_api.Adjustment, example=accounts_api.ADJUSTMENT, success=201,
              idempotent=True,
              errors=("insufficient_credits", "user_not_found", "account_erased",
                      "balance_overflow")),
        Route("POST", "/admin/api/charges/{charge_id}/reverse", STAFF,
              reversals_api.reverse_user_charge, "Give a charge back", parameters=s.UserChargePath,
              body=s.ReverseRequest, answer=reversals_api.ReversedCharge,
              example=reversals_api.CHARGE, idempotent=True,
              errors=("charge_not_found", "free_use_is_whole", *reversals_api.ERRORS)),
        Route("POST", "/admin/api/credits/{credit_id}/reverse", STAFF,
              reversals_api.reverse_user_credit, "Take a credit back", parameters=s.UserCreditPath,
              body=s.ReverseRequest, answer=reversals_api.ReversedCredit,
              example=reversals_api.CREDIT, idempotent=True,
              errors=("insufficient_credits", "credit_not_found", "credit_of_payment",
                      "correction_not_reversible", *reversals_api.ERRORS)),
        Route("POST", "/admin/api/users/{account_id}/free-uses", STAFF,
              accounts_api.reset_free_uses, "Reset free uses", parameters=s.UserPath,
              body=s.ResetFreeUsesRequest, answer=accounts_api.FreeUsesReset,
              example=accounts_api.FREE_USES, errors=("user_not_found", "account_erased")),
        Route("POST", "/admin/api/users/{account_id}/transfer", STAFF,
              merges_api.transfer_user_credits, "Move credits to another account",
              parameters=s.UserPath, body=s.TransferRequest, answer=merges_api.Transfer,
              example=merges_api.TRANSFER, idempotent=True,
              errors=("insufficient_credits", *merges_api.TRANSFER_ERRORS)),
        Route("POST", "/admin/api/users/{account_id}/merge", STAFF, merges_api.merge_user,
              "Merge an account into another", parameters=s.UserPath, body=s.MergeRequest,
              answer=merges_api.MergedAccount, example=merges_api.MERGED, idempotent=True,
              errors=("account_has_holds", "account_merged", *merges_api.TRANSFER_ERRORS)),
        Route("POST", "/admin/api/users/{account_id}/undo-merge", STAFF,
              merges_api.undo_user_merge, "Undo a merge", parameters=s.UserPath,
              body=s.UndoMergeRequest, answer=merges_api.UndoneMerge, example=merges_api.UNDONE,
              idempotent=True, errors=("account_not_merged", "merge_stands", "user_not_found")),
        Route("GET", "/admin/api/users/{account_id}/merges", STAFF, merges_api.list_user_merges,
              "An account's merges", parameters=s.UserPath, answer=list[merges_api.Merge],
              example=merges_api.MERGES),
        Route("GET", "/admin/api/users/{account_id}/top-up", STAFF, top_ups_api.get_user_top_up,
              "An account's top-up", parameters=s.UserPath, answer=top_ups_api.UserTopUp,
              example=top_ups_api.TOP_UP, errors=("user_not_found", "top_up_not_found")),
        Route("POST", "/admin/api/users/{account_id}/end-top-up", STAFF,
              top_ups_api.end_user_top_up, "End an account's top-up", parameters=s.UserPath,
              body=s.EndTopUpRequest, answer=TopUp, example=top_ups_api.ENDED,
              errors=("user_not_found", "top_up_not_found")),
        Route("PUT", "/admin/api/users/{account_id}/status", STAFF, accounts_api.set_user_status,
              "Suspend, reactivate, close", parameters=s.UserPath, body=s.SetStatusRequest,
              answer=accounts_api.StatusChange, example=accounts_api.STATUS,
              errors=("user_not_found", "account_erased")),
    )),
    Section("Staff: people's data", "Exported, erased, and consent withdrawn.", (
        Route("POST", "/admin/api/users/{account_id}/export", STAFF, personal_data_api.export_user,
              "Export a person's data", parameters=s.UserPath,
              answer=personal_data_api.PersonalData, example=personal_data_api.EXPORT,
              errors=("user_not_found",)),
        Route("POST", "/admin/api/users/{account_id}/erase", STAFF, personal_data_api.erase_user,
              "Erase a person's data", parameters=s.UserPath, body=s.ErasePersonRequest,
              answer=personal_data_api.Erasure, example=personal_data_api.ERASE,
              errors=("user_not_found", "account_in_use", "invalid_argument")),
        Route("POST", "/admin/api/users/{account_id}/withdraw-consent", STAFF,
              personal_data_api.withdraw_consent, "Withdraw consent to marketing",
              parameters=s.UserPath, body=s.WithdrawConsentRequest,
              answer=personal_data_api.Consent, example=personal_data_api.CONSENT,
              errors=("user_not_found",)),
    )),
    Section("Staff: API keys", "Who may use the service.", (
        Route("GET", "/admin/api/api-keys", STAFF, keys_api.list_api_keys, "List API keys",
              query=s.KeysQuery, answer=list[keys_api.ApiKey], example=keys_api.LIST),
        Route("POST", "/admin/api/api-keys", STAFF, keys_api.create_api_key, "Create an API key",
              body=s.CreateKeyRequest, answer=keys_api.CreatedKey, example=keys_api.CREATED,
              success=201, errors=("invalid_argument",)),
        Route("DELETE", "/admin/api/api-keys/{api_key_id}", STAFF, keys_api.revoke_api_key,
              "Revoke an API key", parameters=s.KeyPath, query=s.ReasonQuery, success=204,
              content_type="", example=keys_api.REVOKED, errors=("api_key_not_found",)),
        Route("POST", "/admin/api/api-keys/{api_key_id}/rotate", STAFF, keys_api.rotate_api_key,
              "Rotate an API key", parameters=s.KeyPath, query=s.ReasonQuery,
              answer=keys_api.RotatedKey, example=keys_api.ROTATED,
              errors=("api_key_unknown", "api_key_not_active")),
    )),
    Section("Staff: caps", "How much may be charged in a minute, a day or a month.", (
        Route("GET", "/admin/api/caps", STAFF, caps_api.list_caps, "List caps",
              query=s.CapsQuery, answer=caps_api.CapPage, example=caps_api.LIST),
        Route("PUT", "/admin/api/caps", STAFF, caps_api.set_cap, "Set a cap",
              body=s.SetCapRequest, answer=caps_api.Cap, example=caps_api.SET,
              errors=("api_key_not_found", "user_not_found", "invalid_argument")),
        Route("DELETE", "/admin/api/caps/{cap_id}", STAFF, caps_api.delete_cap, "Delete a cap",
              parameters=s.CapPath, query=s.DeleteCapQuery, success=204, content_type="",
              example=caps_api.DELETED, errors=("cap_not_found",)),
    )),
    Section("Staff: figures", "How much the service is used.", (
        Route("GET", "/admin/api/analytics/overview", STAFF, analytics_api.get_overview,
              "At a glance", answer=analytics_api.Overview, example=analytics_api.OVERVIEW),
        Route("GET", "/admin/api/analytics/usage", STAFF, statements_api.list_usage,
              "Usage and money by day", query=s.DaysQuery, answer=list[statements_api.UsageDay],
              example=statements_api.USAGE, errors=("invalid_argument",)),
        Route("GET", "/admin/api/analytics/top-consumers", STAFF,
              statements_api.list_top_consumers, "Who used most", query=s.TopQuery,
              answer=list[statements_api.TopConsumer], example=statements_api.TOP,
              errors=("invalid_argument",)),
        Route("GET", "/admin/api/analytics/daily", STAFF, analytics_api.list_daily_figures,
              "Figures by day", query=s.DailyQuery, answer=list[analytics_api.Daily],
              example=analytics_api.DAILY),
    )),
    Section(
        "Staff: payments", "What was bought, what Stripe said of it, and what needs a person.", (
        Route("GET", "/admin/api/purchases", STAFF, payments_api.list_purchases, "List purchases",
              query=s.PurchasesQuery, answer=payments_api.PurchasePage,
              example=payments_api.PURCHASES),
        Route("GET", "/admin/api/payment-events", STAFF, payments_api.list_payment_events,
              "List Stripe's events", query=s.PageQuery, answer=payments_api.PaymentEventPage,
              example=payments_api.EVENTS),
        Route("GET", "/admin/api/payment-problems", STAFF, payments_api.list_payment_problems,
              "What needs a person", query=s.ProblemsQuery,
              answer=payments_api.PaymentProblemPage, example=payments_api.PROBLEMS),
        Route("POST", "/admin/api/payment-events/{event_id}/resolve", STAFF,
              payments_api.resolve_payment_event, "Resolve an event", parameters=s.EventPath,
              body=s.ResolveEventRequest, answer=payments_api.ResolvedEvent,
              example=payments_api.RESOLVED_EVENT,
              errors=("invalid_argument", "payment_event_not_found", "payment_already_credited",
                      "credit_not_usable")),
        Route("POST", "/admin/api/payments/{payment_id}/refund", STAFF,
              refunds_api.refund_payment, "Refund a payment", parameters=s.PaymentPath,
              body=s.RefundRequest, answer=refunds_api.RefundOfPayment,
              example=refunds_api.REFUNDED, errors=refunds_api.ERRORS),
        Route("POST", "/admin/api/payments/{payment_id}/resolve", STAFF,
              payments_api.resolve_payment, "Resolve a payment", parameters=s.PaymentPath,
              body=s.ResolvePaymentRequest, answer=payments_api.ResolvedPayment,
              example=payments_api.RESOLVED_PAYMENT,
              errors=("invalid_argument", "payment_already_credited", "credit_not_usable")),
        Route("POST", "/admin/api/payments/{payment_id}/reopen", STAFF,
              payments_api.reopen_payment, "Take a resolution back", parameters=s.PaymentPath,
              body=s.ResolveRequest, answer=payments_api.ReopenedPayment,
              example=payments_api.REOPENED, errors=("payment_not_resolved",)),
        Route("POST", "/admin/api/payment-warnings/{warning_id}/resolve", STAFF,
              payments_api.resolve_payment_warning, "Resolve a warning", parameters=s.WarningPath,
              body=s.ResolveRequest, answer=payments_api.ResolvedWarning,
              example=payments_api.RESOLVED_WARNING, errors=("payment_warning_not_found",)),
        Route("POST", "/admin/api/payment-returns/{return_id}/resolve", STAFF,
              payments_api.resolve_shortfall, "Write off a shortfall", parameters=s.ReturnPath,
              body=s.ResolveRequest, answer=payments_api.ResolvedReturn,
              example=payments_api.RESOLVED_RETURN, errors=("payment_return_not_found",)),
    )),
    Section("Staff: settings", "The price, and the payment providers.", (
        Route("GET", "/admin/api/config/providers", STAFF, providers_api.list_providers,
              "Payment providers", answer=list[providers_api.Provider],
              example=providers_api.LIST),
        Route("PUT", "/admin/api/config/providers/{provider}", STAFF, providers_api.set_provider,
              "Set up a payment provider", parameters=s.ProviderPath, body=s.SetProviderRequest,
              secret=True, answer=providers_api.Provider, example=providers_api.CONFIGURED,
              errors=("invalid_argument",)),
        Route("GET", "/admin/api/config/pricing", STAFF, pricing_api.get_pricing,
              "Read the price", answer=pricing_api.Pricing, example=pricing_api.PRICING),
        Route("PUT", "/admin/api/config/pricing", STAFF, pricing_api.set_pricing, "Set the price",
              body=s.SetPricingRequest, answer=pricing_api.Pricing,
              example=pricing_api.NEW_PRICING, errors=("invalid_argument",)),
    )),
    Section("Staff: alerts", "Other systems are told of low balances, purchases and more.", (
        Route("GET", "/admin/api/webhooks", STAFF, webhooks_api.list_webhooks,
              "List webhook endpoints", answer=list[webhooks_api.Endpoint],
              example=webhooks_api.LIST),
        Route("POST", "/admin/api/webhooks", STAFF, webhooks_api.create_webhook,
              "Add a webhook endpoint", body=webhooks_api.CreateEndpointRequest,
              answer=webhooks_api.NewEndpoint, example=webhooks_api.CREATED, success=201,
              errors=("invalid_argument",)),
        Route("PUT", "/admin/api/webhooks/{endpoint_id}", STAFF, webhooks_api.change_webhook,
              "Change, switch, pause", parameters=webhooks_api.EndpointPath,
              body=webhooks_api.ChangeEndpointRequest, answer=webhooks_api.ChangedEndpoint,
              example=webhooks_api.CHANGED,
              errors=("invalid_argument", "webhook_endpoint_not_found", "webhook_not_tried")),
        Route("DELETE", "/admin/api/webhooks/{endpoint_id}", STAFF, webhooks_api.delete_webhook,
              "Delete a webhook endpoint", parameters=webhooks_api.EndpointPath,
              query=webhooks_api.EndpointReason, success=204, content_type="",
              example=webhooks_api.DELETED,
              errors=("webhook_endpoint_not_found", "webhook_endpoint_in_use")),
        Route("POST", "/admin/api/webhooks/{endpoint_id}/try", STAFF, webhooks_api.try_webhook,
              "Send a test event", parameters=webhooks_api.EndpointPath,
              answer=webhooks_api.Trial, example=webhooks_api.TRIED,
              errors=("webhook_endpoint_not_found",)),
        Route("POST", "/admin/api/webhooks/{endpoint_id}/rotate", STAFF,
              webhooks_api.rotate_webhook_secret, "Make a new secret",
              parameters=webhooks_api.EndpointPath, body=webhooks_api.EndpointReason,
              answer=webhooks_api.RotatedSecret, example=webhooks_api.ROTATED,
              errors=("webhook_endpoint_not_found",)),
        Route("POST", "/admin/api/webhooks/{endpoint_id}/resend", STAFF,
              webhooks_api.resend_failed_deliveries, "Send all failed again",
              parameters=webhooks_api.EndpointPath, body=webhooks_api.EndpointReason,
              answer=webhooks_api.Resent, example=webhooks_api.RESENT_ALL,
              errors=("webhook_endpoint_not_found", "webhook_endpoint_off")),
        Route("GET", "/admin/api/webhook-deliveries", STAFF,
              webhooks_api.list_webhook_deliveries, "List deliveries",
              query=webhooks_api.DeliveriesQuery, answer=webhooks_api.DeliveryPage,
              example=webhooks_api.DELIVERIES),
        Route("POST", "/admin/api/webhook-deliveries/{delivery_id}/resend", STAFF,
              webhooks_api.resend_webhook_delivery, "Send a delivery again",
              parameters=webhooks_api.DeliveryPath, body=webhooks_api.EndpointReason,
              answer=webhooks_api.Resent, example=webhooks_api.RESENT,
              errors=("delivery_not_found", "webhook_endpoint_not_found",
                      "webhook_endpoint_off")),
        Route("GET", "/admin/api/config/low-balance", STAFF, webhooks_api.get_low_balance,
              "Read the low balance", answer=webhooks_api.LowBalance,
              example=webhooks_api.LOW_BALANCE),
        Route("PUT", "/admin/api/config/low-balance", STAFF, webhooks_api.set_low_balance,
              "Set the low balance", body=webhooks_api.LowBalanceRequest,
              answer=webhooks_api.LowBalance, example=webhooks_api.NEW_LOW_BALANCE),
    )),
    Section("Staff: staff", "Who may do all this, and who did what.", (
        Route("GET", "/admin/api/staff", STAFF, staff_api.list_staff, "List staff",
              answer=staff_api.StaffList, example=staff_api.LIST),
        Route("POST", "/admin/api/staff", STAFF, staff_api.add_staff, "Add somebody",
              body=s.AddStaffRequest, answer=staff_api.StaffMember, example=staff_api.ADDED,
              success=201, errors=("invalid_argument", "last_admin")),
        Route("PUT", "/admin/api/staff/{email}", STAFF, staff_api.change_staff, "Change somebody",
              parameters=s.StaffPath, body=s.ChangeStaffRequest, answer=staff_api.StaffMember,
              example=staff_api.CHANGED, errors=("admin_not_found", "last_admin")),
        Route("GET", "/admin/api/audit-log", STAFF, audit_api.list_audit_log,
              "Read the audit log", query=s.AuditQuery, answer=audit_api.AuditPage,
              example=audit_api.EXAMPLE),
    )),
    Section(
        "Staff: signing in",
        "For browsers: signing in by the identity provider, and out again.", (
        Route("GET", "/admin/oauth/login", PUBLIC, page_for_browsers(oauth.begin_sign_in),
              "To Google", query=s.LoginQuery, success=302, content_type="",
              headers=("Cache-Control",), example=oauth.LOGIN,
              errors=("invalid_redirect", "too_many_attempts", "sign_in_unavailable",
                      "sign_in_not_configured", "unavailable")),
        Route("GET", "/admin/oauth/callback", PUBLIC, page_for_browsers(oauth.finish_sign_in),
              "And back", query=s.CallbackQuery, success=302, content_type="",
              headers=("Cache-Control",),
              errors=("sign_in_failed", "too_many_attempts", "sign_in_unavailable",
                      "sign_in_not_configured", "unavailable", "validation_error")),
        Route("POST", "/admin/oauth/logout", PUBLIC, oauth.sign_out, "End the session",
              answer=oauth.SignedOut, example=oauth.LOGOUT, headers=("Cache-Control",),
              errors=("sign_in_not_configured", "unavailable")),
        Route("GET", "/admin/oauth/user", STAFF, oauth.get_signed_in, "Who is signed in",
              answer=oauth.SignedIn, example=oauth.USER,
              guard_errors=("not_authenticated", "not_authorized")),
    )),

    Section("Console", "The pages for staff. They are no part of the API's description.", (
        Route("GET", "/admin/sign-in", OPEN_PAGE, sign_in.sign_in, "Sign in"),
        Route("GET", "/admin/sign-in/{token}", OPEN_PAGE, sign_in.use_link, "By link"),
        Route("POST", "/admin/sign-out", PAGE, sign_in.sign_out, "Sign out"),
        Route("GET", "/admin", PAGE, dashboard.show, "Dashboard",
              tab="Dashboard"),
        Route("GET", "/admin/search", PAGE, search_page.find, "Search everything"),
        Route("GET", "/admin.csv", PAGE, dashboard.export, "Figures of each day as CSV"),
        Route("GET", "/admin/accounts", PAGE, accounts_page.find, "Find accounts",
              tab="Accounts"),
        Route("GET", "/admin/accounts.csv", PAGE, accounts_page.export, "Accounts as CSV"),
        Route("GET", "/admin/accounts/{account_id}", PAGE, accounts_page.show, "One account"),
        Route("GET", "/admin/accounts/{account_id}/statement", PAGE, statements_page.show,
              "Statement of a period"),
        Route("GET", "/admin/accounts/{account_id}/statement.csv", PAGE, statements_page.export,
              "Statement as CSV"),
        Route("GET", "/admin/consumers", PAGE, statements_page.list_consumers, "Top consumers"),
        Route("GET", "/admin/consumers.csv", PAGE, statements_page.export_consumers,
              "Top consumers as CSV"),
        Route("POST", "/admin/accounts/{account_id}/credits", PAGE, accounts_page.adjust_credits,
              "Grant or take credits"),
        Route("POST", "/admin/accounts/{account_id}/grant", PAGE, accounts_page.grant,
              "Grant credits"),
        Route("POST", "/admin/accounts/{account_id}/notes", PAGE, accounts_page.add_note,
              "Write a note"),
        Route("POST", "/admin/accounts/{account_id}/notes/{note_id}/remove", PAGE,
              accounts_page.remove_note, "Remove a note"),
        Route("GET", "/admin/accounts/{account_id}/reverse/{kind}/{entry_id}", PAGE,
              reversals_page.ask, "What a reversal would do"),
        Route("POST", "/admin/accounts/{account_id}/reverse/{kind}/{entry_id}", PAGE,
              reversals_page.reverse, "Reverse a charge or a credit"),
        Route("POST", "/admin/accounts/{account_id}/free-uses", PAGE,
              accounts_page.reset_free_uses, "Reset free uses"),
        Route("POST", "/admin/accounts/{account_id}/transfer", PAGE, merges_page.transfer_credits,
              "Move credits to another account"),
        Route("POST", "/admin/accounts/{account_id}/merge", PAGE, merges_page.merge_accounts,
              "Merge an account into another"),
        Route("POST", "/admin/accounts/{account_id}/undo-merge", PAGE, merges_page.undo_merge,
              "Undo a merge"),
        Route("POST", "/admin/accounts/{account_id}/status", PAGE, accounts_page.set_status,
              "Suspend, reactivate, close"),
        Route("POST", "/admin/accounts/{account_id}/export", PAGE, personal_data_page.export,
              "Export a person's data"),
        Route("POST", "/admin/accounts/{account_id}/erase", PAGE, personal_data_page.erase,
              "Erase a person's data"),
        Route("POST", "/admin/accounts/{account_id}/withdraw-consent", PAGE,
              personal_data_page.withdraw_consent, "Withdraw consent to marketing"),
        Route("POST", "/admin/accounts/{account_id}/end-top-up", PAGE, top_ups_page.end,
              "End an account's top-up"),
        Route("GET", "/admin/payments", PAGE, payments_page.purchases, "Purchases",
              tab="Payments"),
        Route("GET", "/admin/payments.csv", PAGE, payments_page.purchases_csv,
              "Purchases as CSV"),
        Route("GET", "/admin/payments/events", PAGE, payments_page.events, "Stripe's events"),
        Route("GET", "/admin/payments/events.csv", PAGE, payments_page.events_csv,
              "Stripe's events as CSV"),
        Route("GET", "/admin/payments/problems", PAGE, payments_page.problems,
              "What needs a person"),
        Route("GET", "/admin/payments/problems.csv", PAGE, payments_page.problems_csv,
              "What needs a person as CSV"),
        Route("POST", "/admin/payments/problems/{event_id}", PAGE, payments_page.resolve,
              "Resolve"),
        Route("GET", "/admin/payments/{payment_id}", PAGE, refunds_page.show, "One payment"),
        Route("POST", "/admin/payments/{payment_id}/refund", PAGE, refunds_page.refund,
              "Refund a payment"),
        Route("GET", "/admin/keys", PAGE, keys_page.list_keys, "API keys",
              tab="API keys"),
        Route("GET", "/admin/keys.csv", PAGE, keys_page.export, "API keys as CSV"),
        Route("POST", "/admin/keys", PAGE, keys_page.create, "Create a key"),
        Route("POST", "/admin/keys/{api_key_id}/rotate", PAGE, keys_page.rotate, "Rotate a key"),
        Route("POST", "/admin/keys/{api_key_id}/revoke", PAGE, keys_page.revoke, "Revoke a key"),
        Route("GET", "/admin/caps", PAGE, caps_page.list_caps, "Caps", tab="Caps"),
        Route("POST", "/admin/caps", PAGE, caps_page.set_cap, "Set a cap"),
        Route("POST", "/admin/caps/{cap_id}/delete", PAGE, caps_page.delete_cap,
              "Delete a cap"),
        Route("GET", "/admin/settings", PAGE, settings_page.show, "Pricing and providers",
              tab="Settings"),
        Route("POST", "/admin/settings/pricing", PAGE, settings_page.set_pricing,
              "Set the price"),
        *settings_page.provider_routes(),
        Route("GET", "/admin/webhooks", PAGE, webhooks_page.show, "Webhooks", tab="Webhooks"),
        Route("POST", "/admin/webhooks", PAGE, webhooks_page.create, "Add an endpoint"),
        Route("POST", "/admin/webhooks/low-balance", PAGE, webhooks_page.set_low_balance,
              "Set the low balance"),
        Route("GET", "/admin/webhooks/deliveries", PAGE, webhooks_page.deliveries, "Deliveries"),
        Route("POST", "/admin/webhooks/deliveries/{delivery_id}", PAGE, webhooks_page.resend,
              "Send a delivery again"),
        Route("POST", "/admin/webhooks/{endpoint_id}", PAGE, webhooks_page.change,
              "Try, change, switch, pause"),
        Route("GET", "/admin/staff", PAGE, staff_pages.list_staff, "Staff",
              tab="Staff"),
        Route("GET", "/admin/staff.csv", PAGE, staff_pages.export, "Staff as CSV"),
        Route("POST", "/admin/staff", PAGE, staff_pages.add, "Add somebody"),
        Route("POST", "/admin/staff/{email}", PAGE, staff_pages.change,
              "Change role, deactivate"),
        Route("GET", "/admin/proof", PAGE, proof_page.show, "Proof of the books", tab="Proof"),
        Route("GET", "/admin/audit", PAGE, audit_page.list_entries, "Audit log",
              tab="Audit log"),
        Route("GET", "/admin/audit.csv", PAGE, audit_page.export, "Audit log as CSV"),
        # This line is last: it matches every other address of the console's API.
        Route("GET", "/admin/api/{path:.*}", OPEN_PAGE, dashboard.not_found, "Not found"),
        Route("GET", "/admin/{path:.*}", OPEN_PAGE, dashboard.not_found, "Not found"),
    )),
)
# fmt: on

ROUTES = tuple(route for section in SECTIONS for route in section.routes)


# The old service's dashboard calls these without /api.
_OF_OLD_DASHBOARD = (
    "/admin/api/users",
    "/admin/api/users/{account_id}",
    "/admin/api/api-keys",
    "/admin/api/api-keys/{api_key_id}",
    "/admin/api/api-keys/{api_key_id}/rotate",
    "/admin/api/analytics/overview",
    "/admin/api/analytics/daily",
    "/admin/api/config/providers",
    "/admin/api/config/providers/{provider}",
)
OLD_ADDRESSES = tuple(
    replace(route, path=route.path.replace("/admin/api/", "/admin/"))
    for route in ROUTES
    if route.path in _OF_OLD_DASHBOARD
)


def add_routes(app: web.Application) -> None:
    """Puts every route on the application; GET routes answer HEAD too."""
    app[ROUTE_TABLE] = SECTIONS
    for route in (*OLD_ADDRESSES, *ROUTES):
        handler = _guarded(route)
        if route.method == "GET":
            app.router.add_get(
                route.path,
                handler,
                allow_head=True,
                expect_handler=ignore_other_expectations,
            )
        else:
            app.router.add_route(
                route.method, route.path, handler, expect_handler=ignore_other_expectations
            )


def _guarded(route: Route) -> Handler:
    """Puts the route's handler behind its guard."""
    if route.is_for_agents:
        return agent_endpoint(
            route.guard,
            route.handler,
            body=route.body,
            path=route.parameters,
            query=route.query,
            idempotent=route.idempotent,
        )
    if route.guard == STAFF and not route.guard_errors:
        shaped = staff_endpoint(
            route.handler,
            writes=route.writes,
            body=route.body,
            path=route.parameters,
            query=route.query,
            idempotent=route.idempotent,
            secret=route.secret,
        )
        return guarded_for_scripts(shaped)
    if route.guard == PAGE:
        return page(route.handler)
    return public_page(route.handler) if route.guard == OPEN_PAGE else route.handler
