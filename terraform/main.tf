# The whole of s3nsync with one command; README.md has the words. Everything is in modules/s3nsync: this root adds the
# provider, and the simple variables that stand for one route.

provider "aws" {
  region              = var.region
  allowed_account_ids = [var.accountid]

  default_tags {
    tags = merge({ application = "s3nsync", deployment = var.name }, var.tags)
  }
}

module "s3nsync" {
  source = "./modules/s3nsync"

  name   = var.name
  routes = try([for route in var.routes : route], [{ bucket = var.bucket, cpcode = var.cpcode }]) # routes are null by default

  secret         = var.secret
  secret_version = var.secret_version
  secret_arns    = var.secret_arns

  event_path                 = var.event_path
  event_suffixes             = var.event_suffixes
  manage_bucket_notification = var.manage_bucket_notification
  intake_concurrency         = var.intake_concurrency

  nat_route_table_id = var.natgwrtid
  subnet_ids         = var.subnet_ids
  subnet_cidrs       = var.subnet_cidrs
  create_s3_endpoint = var.create_s3_endpoint

  image              = var.image
  architecture       = var.architecture
  cpu                = var.cpu
  memory             = var.memory
  spot               = var.spot
  min_tasks          = var.min_tasks
  max_tasks          = var.max_tasks
  worker_environment = var.worker_environment

  kms_key_arn         = var.kms_key_arn
  bucket_kms_key_arns = var.bucket_kms_key_arns
  operations          = var.operations
}
