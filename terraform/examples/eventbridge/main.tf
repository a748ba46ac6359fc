# A bucket that others listen to as well: EventBridge is on already, and its notification settings stay as they are.

terraform {
  required_version = ">= 1.11"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.90"
    }
  }
}

provider "aws" {
  region = "eu-central-1"
}

variable "secret" {
  description = "NS_HOSTNAME, NS_USER and NS_KEY of the NetStorage upload account: TF_VAR_secret, or -var."
  type        = map(string)
  sensitive   = true
  ephemeral   = true
}

module "s3nsync" {
  source = "../../modules/s3nsync"

  routes             = [{ bucket = "my-media", cpcode = "123456", prefix = "public/", strip_prefix = "public/" }]
  secret             = var.secret
  nat_route_table_id = "rtb-0123456789abcdef0"

  event_path                 = "eventbridge"
  manage_bucket_notification = false
  event_suffixes             = [".mp4", ".m3u8", ".ts"]
}
