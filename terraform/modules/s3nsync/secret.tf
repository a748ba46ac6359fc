# --- NetStorage credentials -----------------------------------------------------------------------------------------
# The value goes through an ephemeral variable into a write-only argument: Terraform forgets it. It cannot see a changed
# value either, so `secret_version` says when to write.

resource "aws_secretsmanager_secret" "this" {
  #checkov:skip=CKV2_AWS_57: Akamai issues the key; nothing in AWS could rotate it. secret_version does, by hand
  count = contains(keys(var.secret_arns), "default") ? 0 : 1

  name                    = "${var.name}/netstorage"
  description             = "NetStorage upload account of ${var.name}: NS_HOSTNAME, NS_USER, NS_KEY"
  kms_key_id              = local.kms_key_arn
  recovery_window_in_days = 0 # else the name stays taken after destroy; the key itself is kept by Akamai's portal

  depends_on = [terraform_data.routes_are_sound, terraform_data.bucket_is_free, terraform_data.endpoint_is_missing]
}

resource "aws_secretsmanager_secret_version" "this" {
  count = length(aws_secretsmanager_secret.this)

  secret_id                = aws_secretsmanager_secret.this[0].id
  secret_string_wo         = jsonencode(var.secret)
  secret_string_wo_version = var.secret_version
}

locals {
  secret_arns = merge({ for secret in aws_secretsmanager_secret.this : "default" => secret.arn }, var.secret_arns)
}
